"""`cueline audit`: who read what."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from server.audit.chain import BrokenChain, line_of, links, verify, without
from server.audit.log import FILE
from server.config import load_settings
from server.wire.errors import ConfigError


@click.group()
def audit() -> None:
    """Verify and export the log of who read what."""


def _files(file: Path | None, config: Path | None) -> list[Path]:
    """The named file, or all of the configured data directory: one a process."""
    if file is not None:
        return [file]
    data = load_settings(config, os.environ).data_path
    found = sorted(data.rglob(FILE))
    if not found:
        raise ConfigError("there is no audit log here", field=str(data))
    return found


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as opened:
            yield from opened
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", field=str(file)) from None


@audit.command("verify")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--config", type=click.Path(path_type=Path), envvar="CUELINE_CONFIG", help="TOML file, as for serve.")
@click.option("--head", default="", help="A head noted down earlier, which has to be on the chain.")
@click.option("--export", "is_export", is_flag=True, help="FILE is an export, which may leave entries out.")
def verify_command(file: Path | None, config: Path | None, head: str, is_export: bool) -> None:
    """Check that nothing was changed, removed or added.

    Prints the head, to be noted down elsewhere. FILE is an audit log, or with `--export` an export of one;
    without it, all logs of the data directory are checked.
    """
    if is_export and file is None:
        raise ConfigError("name the export", field="FILE")
    is_sound = True
    for path in _files(file, config):
        try:
            found = verify(_lines(path), head, is_export=is_export)
        except BrokenChain as error:
            click.echo(f"{path}: BROKEN, {error}", err=True)
            is_sound = False
        else:
            click.echo(f"{path}: {found.number} entries hold, head {found.hash}")
    sys.exit(0 if is_sound else 1)


@audit.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--config", type=click.Path(path_type=Path), envvar="CUELINE_CONFIG", help="TOML file, as for serve.")
@click.option("--tenant", help="Only this tenant's entries; of the others only the hashes remain.")
@click.option(
    "--since", type=click.DateTime(), help="Only entries from then on (UTC); of earlier ones only the hashes."
)
def export(file: Path | None, config: Path | None, tenant: str | None, since: datetime.datetime | None) -> None:
    """Print an audit log, one JSON object a line.

    `cueline audit verify --export` still holds for what is printed.
    """
    since_ms = 0.0 if since is None else since.replace(tzinfo=datetime.UTC).timestamp() * 1000
    paths = _files(file, config)
    if len(paths) > 1:
        raise ConfigError("there are several, one a process; name one: " + ", ".join(map(str, paths)), field="FILE")
    try:
        for found, entry in links(_lines(paths[0])):
            is_asked = entry is not None and tenant in (None, entry.tenant_id) and entry.at_ms >= since_ms
            sys.stdout.buffer.write(line_of(found) if is_asked else without(found))
    except BrokenChain as error:
        raise click.ClickException(f"{paths[0]}: {error}") from None
