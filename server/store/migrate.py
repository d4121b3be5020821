"""Brings a database to the newest schema, at every start, in one transaction."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from server.wire.errors import ConfigError

NEWEST = "0002"
"""Revision of the newest migration; a database that has it needs nothing."""
_FOLDER = Path(__file__).parent / "migrations"


def migrate(connection: Connection) -> None:
    """Run the missing migrations on an open transaction. Blocks; run it with `run_sync`.

    Raises:
        ConfigError: The schema is of a version that this code does not know.
    """
    if _is_newest(connection):
        return
    # Only now: it takes a quarter of a second to import, and nearly every start finds nothing to do.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

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


def _is_newest(connection: Connection) -> bool:
    if not inspect(connection).has_table("alembic_version"):
        return False
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [NEWEST]
