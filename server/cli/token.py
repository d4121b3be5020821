"""`cueline token`: a token for development, signed with the configured shared key."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any, cast

import click

from server.auth.identity import ROLES, Role
from server.auth.tokens import issue_token
from server.config import load_settings
from server.wire.errors import ConfigError

_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+)([smhd]?)")


class Duration(click.ParamType[float]):
    """`90`, `90s`, `15m`, `8h`, `7d` → seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType`."""
        matched = _DURATION.fullmatch(str(value))
        if matched is None:
            self.fail(f"{value!r} is not a duration such as 90s, 15m, 8h or 7d", param, ctx)
        return float(int(matched[1]) * _UNIT_S[matched[2]])


@click.command()
@click.option("--config", type=click.Path(path_type=Path), envvar="CUELINE_CONFIG", help="TOML file, as for serve.")
@click.option("--tenant", help="Tenant that it is good for. [auth.default_tenant]")
@click.option("--agent", help="Agent that its bearer is.")
@click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="Repeatable. [agent]")
@click.option("--team", "teams", multiple=True, help="Team that a supervisor looks after. Repeatable.")
@click.option("--ttl", type=Duration(), default="8h", show_default=True, help="How long it is good for.")
def token(
    config: Path | None,
    tenant: str | None,
    agent: str | None,
    roles: tuple[str, ...],
    teams: tuple[str, ...],
    ttl: float,
) -> None:
    """Print a token for development, signed with the configured shared key (auth.shared_key)."""
    auth = load_settings(config, os.environ).auth
    if not auth.shared_key:
        raise ConfigError("is not set, so this server takes no tokens", field="auth.shared_key")
    click.echo(
        issue_token(
            auth.shared_key,
            tenant_id=tenant or auth.default_tenant,
            agent_id=agent,
            roles=cast("tuple[Role, ...]", roles or ("agent",)),
            teams=teams,
            ttl_s=ttl,
            wall_s=time.time(),
        )
    )
