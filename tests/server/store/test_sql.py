from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine

from server.store.contract import Store
from server.store.schema import metadata
from server.store.sql import SqlStore
from server.wire.errors import ConfigError, Unavailable
from tests.server.store.contract_suite import StoreSuite
from tests.server.store.records import TENANT, conversation, utterance


def url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = SqlStore(url(tmp_path / "made" / "cueline.db"))
    await store.start()
    yield store
    await store.stop()


class TestContract(StoreSuite):
    pass


async def started(path: Path) -> None:
    store = SqlStore(url(path))
    try:
        await store.start()
    finally:
        await store.stop()


async def test_it_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "cueline.db"
    for _ in range(2):
        store = SqlStore(url(path))
        await store.start()
        await store.apply([utterance(final=True)])
        assert await store.revisions(TENANT, "c1") == {"u1": (1, True)}
        await store.stop()


async def test_the_migrations_make_the_schema(tmp_path: Path) -> None:
    await started(tmp_path / "cueline.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'cueline.db'}")

    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)

    with engine.connect() as connection:
        assert differences(connection) == []
    engine.dispose()


async def test_a_newer_schema_refuses_the_start(tmp_path: Path) -> None:
    path = tmp_path / "cueline.db"
    await started(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(ConfigError, match="9999") as caught:
        await started(path)
    assert caught.value.field == "store.url"


def spoil_header(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)


def spoil_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x55" * (len(content) - 4096)
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:6000])


@pytest.mark.parametrize("spoil", [spoil_header, spoil_pages, cut_short])
async def test_a_spoiled_file_refuses_the_start_and_is_named(tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "cueline.db"
    await started(path)
    assert callable(spoil)
    spoil(path)
    with pytest.raises(ConfigError) as caught:
        await started(path)
    assert caught.value.field == str(path)


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        await started(tmp_path / "file" / "cueline.db")
    assert caught.value.field == str(tmp_path / "file" / "cueline.db")


@pytest.mark.parametrize("wrong", ["no url", "sqlite+nodriver:///x.db", "nosuchdb://host/x", "mysql://host/x"])
def test_a_wrong_url_names_the_setting(wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SqlStore(wrong)
    assert caught.value.field == "store.url"


async def test_a_store_that_was_not_started_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await SqlStore(url(tmp_path / "cueline.db")).apply([utterance()])


async def test_a_locked_database_is_unavailable_and_tells_no_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("server.store.sqlite._PRAGMAS", ("PRAGMA busy_timeout=1", "PRAGMA journal_mode=WAL"))
    path = tmp_path / "cueline.db"
    store = SqlStore(url(path))
    await store.start()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.DEBUG), pytest.raises(Unavailable) as caught:
        await store.apply([utterance(text="secret words")])
    assert "secret" not in f"{caught.value} {caught.value.__cause__} {caplog.text}"
    other.execute("ROLLBACK")
    other.close()
    await store.apply([utterance()])
    await store.stop()


async def test_readers_do_not_wait_for_a_writer(store: Store, tmp_path: Path) -> None:
    await store.apply([conversation()])
    writer = sqlite3.connect(tmp_path / "made" / "cueline.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert len(await store.conversations(TENANT, limit=5, before_ms=None)) == 1
    writer.execute("ROLLBACK")
    writer.close()


async def test_writers_take_turns(store: Store) -> None:
    batches = [[utterance(f"u{n}-{m}", final=True) for m in range(20)] for n in range(8)]
    await asyncio.gather(*(store.apply(batch) for batch in batches))
    assert len(await store.revisions(TENANT, "c1")) == 160
