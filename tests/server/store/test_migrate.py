from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from server.store import migrate


def test_the_newest_revision_is_the_one_named() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.NEWEST]


def test_a_database_is_migrated_once_and_then_left_alone(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'store.db'}")
    with engine.begin() as connection:
        migrate.migrate(connection)
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == migrate.NEWEST
        assert connection.execute(text("SELECT count(*) FROM conversations")).scalar_one() == 0
    with engine.begin() as connection:
        statements: list[str] = []
        connection.connection.driver_connection.set_trace_callback(statements.append)
        migrate.migrate(connection)
        assert statements
        assert not any(statement.lstrip().upper().startswith(("CREATE", "ALTER", "UPDATE")) for statement in statements)
    engine.dispose()
