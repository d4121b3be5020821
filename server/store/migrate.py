"""Brings a database to the newest schema, at every start, in one transaction."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from server.wire.errors import ConfigError

_FOLDER = Path(__file__).parent / "migrations"


def migrate(connection: Connection) -> None:
    """Run the missing migrations on an open transaction. Blocks; run it with `run_sync`.

    Raises:
        ConfigError: The schema is of a version that this code does not know.
    """
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
    if unknown:
        raise ConfigError(
            f"the database has schema {', '.join(sorted(unknown))}, newer than the newest this version knows "
            f"({max(known)}); start the newer version or restore the backup from before it",
            field="store.url",
        )
    command.upgrade(config, "head")
