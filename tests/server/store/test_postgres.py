from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from server.keys.keyring import Keyring
from server.keys.local import LocalKeys
from server.store.contract import Store
from server.store.outbox import Outbox, OutboxLimits
from server.store.schema import metadata
from server.store.sql import SqlStore
from server.wire.errors import ConfigError, Unavailable
from server.wire.publication import Notice
from tests.server.store.contract_suite import StoreSuite
from tests.server.store.postgres_server import PostgresServer
from tests.server.store.records import TENANT, conversation, utterance

QUICK = OutboxLimits(linger_s=0, drain_linger_s=0, retry_cap_s=0.1)


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    """An empty, unmigrated database."""
    await postgres.execute("DROP DATABASE IF EXISTS test WITH (FORCE)")
    await postgres.execute("CREATE DATABASE test")
    return postgres.url("test")


@pytest.fixture
async def store(url: str, tmp_path: Path) -> AsyncIterator[Store]:
    keys = Keyring(LocalKeys(tmp_path / "keys"))
    store = SqlStore(url, max_connections=3, statement_timeout_s=1.0, keys=keys)
    await store.start()
    yield store
    await store.stop()


class TestContract(StoreSuite):
    pass


async def test_the_migrations_make_the_schema(store: Store, url: str) -> None:
    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)

    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_processes_that_start_together_migrate_in_turn(url: str) -> None:
    stores = [SqlStore(url, max_connections=1) for _ in range(4)]
    await asyncio.gather(*(store.start() for store in stores))
    await asyncio.gather(*(store.apply([utterance(f"u{n}")]) for n, store in enumerate(stores)))
    assert len(await stores[0].revisions(TENANT, "c1")) == 4
    for store in stores:
        await store.stop()


async def test_processes_that_write_the_same_rows_leave_the_highest_revision(url: str) -> None:
    """A stale owner and its successor, in opposite orders and at the same time."""
    stores = [SqlStore(url, max_connections=2) for _ in range(2)]
    for store in stores:
        await store.start()
    names = [f"u{n}" for n in range(50)]
    for revision in range(1, 6):
        newer = [utterance(name, revision, final=revision == 3) for name in names]
        older = [utterance(name, revision - 1) for name in reversed(names)]
        await asyncio.gather(stores[0].apply(newer), stores[1].apply(older))
    assert await stores[0].revisions(TENANT, "c1") == dict.fromkeys(names, (3, True))
    for store in stores:
        await store.stop()


async def test_a_newer_schema_refuses_the_start(store: Store, url: str, postgres: PostgresServer) -> None:
    await postgres.execute("UPDATE alembic_version SET version_num = '9999'", "test")
    with pytest.raises(ConfigError, match="9999"):
        await SqlStore(url).start()


@pytest.mark.parametrize(("user", "database", "field"), [("stranger", "test", "password"), ("cueline", "none", "url")])
async def test_a_server_that_does_not_know_us_refuses_the_start(
    url: str, postgres: PostgresServer, user: str, database: str, field: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        await SqlStore(postgres.url(database, user), password="secret").start()
    assert caught.value.field == f"store.{field}"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("option", ["ssl=bogus", "sslmodee=require", "prepared_statement_cache_size=x"])
async def test_an_option_that_the_driver_cannot_take_refuses_the_start(url: str, option: str) -> None:
    with pytest.raises(ConfigError, match="use") as caught:
        await SqlStore(f"{url}?{option}", password="secret").start()
    assert caught.value.field == "store.url"
    assert "secret" not in str(caught.value)


async def test_why_a_server_is_away_is_told(url: str, caplog: pytest.LogCaptureFixture) -> None:
    store = SqlStore(f"{url}?ssl=require")
    await store.start()
    await store.stop()
    assert [vars(record)["reason"] for record in caplog.records if "does not answer" in record.message] == [
        f'PostgreSQL server at "127.0.0.1:{make_url(url).port}" rejected SSL upgrade'
    ]


async def test_a_connection_budget_is_kept(store: Store, postgres: PostgresServer) -> None:
    await store.apply([conversation()])
    await asyncio.gather(*(store.revisions(TENANT, "c1") for _ in range(30)))
    (count,) = await postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cueline'")
    assert count[0] <= 3


async def test_a_statement_that_takes_too_long_is_ended(store: Store, postgres: PostgresServer) -> None:
    """Somebody holds the table: the store answers in its time, and the server forgets the statement."""
    await store.apply([utterance()])
    connection = await asyncpg.connect(postgres.url("test"))
    async with connection.transaction():
        await connection.execute("LOCK TABLE utterances IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unavailable):
            await store.apply([utterance("u2")])
    await connection.close()
    await store.apply([utterance("u2")])
    assert len(await store.revisions(TENANT, "c1")) == 2


async def test_a_text_that_the_server_refuses_is_isolated_and_holds_nothing_up(store: Store, tmp_path: Path) -> None:
    told: list[Notice] = []
    outbox = Outbox(tmp_path, store, limits=QUICK, on_notice=told.append)
    await outbox.start()
    bad = msgspec.structs.replace(conversation(), policy="nul \x00 byte")
    for record in (utterance("u1"), bad, utterance("u2")):
        outbox.put_nowait(record)
    await outbox.drained()
    assert await store.revisions(TENANT, "c1") == {"u1": (1, False), "u2": (1, False)}
    assert [notice.code for notice in told] == ["record_refused"]
    await outbox.stop()


class TestAway:
    """Drills: each leaves the store as if nothing had happened."""

    async def test_a_server_that_is_down_is_waited_for_in_order(
        self, store: Store, postgres: PostgresServer, tmp_path: Path
    ) -> None:
        told: list[str] = []
        is_away = asyncio.Event()

        def note(notice: Notice) -> None:
            told.append(notice.code)
            is_away.set()

        outbox = Outbox(tmp_path, store, limits=QUICK, on_notice=note)
        await outbox.start()
        await outbox.put(utterance("before", final=True))
        await outbox.drained()
        postgres.stop()
        try:
            for number in range(500):
                outbox.put_nowait(utterance(f"u{number % 50}", 1 + number // 50))
            await outbox.put(utterance("last", final=True))
            with pytest.raises(Unavailable):
                await store.revisions(TENANT, "c1")
            await is_away.wait()
            assert outbox.waiting_records == 501
        finally:
            postgres.start()
        await outbox.drained()
        assert await store.revisions(TENANT, "c1") == {
            "before": (1, True),
            "last": (1, True),
            **{f"u{n}": (10, False) for n in range(50)},
        }
        assert told == ["store_away", "store_back"]
        assert outbox.waiting_records == 0
        await outbox.stop()

    async def test_a_start_without_the_server_comes_right_later(
        self, url: str, postgres: PostgresServer, tmp_path: Path
    ) -> None:
        postgres.stop()
        try:
            store = SqlStore(url)
            await store.start()
            outbox = Outbox(tmp_path, store, limits=QUICK)
            await outbox.start()
            await outbox.put(utterance())
        finally:
            postgres.start()
        await outbox.drained()
        assert await store.revisions(TENANT, "c1") == {"u1": (1, False)}
        await outbox.stop()
        await store.stop()

    @pytest.mark.slow
    async def test_a_frozen_server_holds_nobody_up_for_long(
        self, store: Store, postgres: PostgresServer, tmp_path: Path
    ) -> None:
        outbox = Outbox(tmp_path, store, limits=QUICK)
        await outbox.start()
        await outbox.put(utterance())
        await outbox.drained()
        postgres.freeze()
        try:
            async with asyncio.timeout(15):
                with pytest.raises(Unavailable):
                    await store.apply([utterance("u2")])
            await asyncio.gather(*(outbox.put(utterance(f"u{n}")) for n in range(100)))
        finally:
            postgres.thaw()
        await outbox.drained()
        assert len(await store.revisions(TENANT, "c1")) == 100
        await outbox.stop()
