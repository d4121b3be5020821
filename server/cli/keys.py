"""`cueline keys`: the keys that seal what customers said."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from server.config import load_settings
from server.keys.choice import open_provider
from server.wire.ids import TenantId


@click.group()
def keys() -> None:
    """Look after the keys that seal what customers said, one a tenant."""


@keys.command()
@click.option("--config", type=click.Path(path_type=Path), envvar="CUELINE_CONFIG", help="TOML file, as for serve.")
@click.option("--tenant", required=True, help="Whose key.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def destroy(config: Path | None, tenant: str, yes: bool) -> None:
    """Destroy a tenant's key and what it sealed, for good.

    Everything sealed with it is unreadable from then on, in stores, journals and backups. Running servers forget it
    within seconds. Nothing of this tenant is kept any more from then on.
    """
    settings = load_settings(config, os.environ)
    if not yes:
        click.confirm(f"Everything that was said in calls of {tenant} will be unreadable for ever. Go on?", abort=True)

    async def run() -> str:
        provider = await open_provider(settings.keys, settings.data_path)
        try:
            return await provider.destroy(TenantId(tenant))
        finally:
            await provider.close()

    click.echo(asyncio.run(run()))
