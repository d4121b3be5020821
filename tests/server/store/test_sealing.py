"""No customer word lies readable on a disk, and what is readable is readable only while its tenant's key is there."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from server.keys.keyring import Keyring
from server.keys.local import LocalKeys
from server.store import migrate
from server.store.outbox import REFUSED, Outbox, OutboxLimits
from server.store.sql import SqlStore
from server.wire.errors import Gone, Unavailable
from server.wire.ids import TenantId
from tests.server.store.records import TENANT, action, conversation, receipt, utterance
from tests.server.store.test_outbox import Shelf

QUICK = OutboxLimits(linger_s=0, drain_linger_s=0, retry_cap_s=0.05)
SECRET = "my oil light"  # in every utterance and card of the tests
OTHER = TenantId("retail_bank")


async def ring(folder: Path) -> Keyring:
    keys = Keyring(LocalKeys(folder / "keys"))
    await keys.check([TENANT, OTHER])
    return keys


async def opened(folder: Path, keys: Keyring | None) -> SqlStore:
    store = SqlStore(f"sqlite+aiosqlite:///{folder / 'cueline.db'}", keys=keys)
    await store.start()
    return store


def bytes_in(folder: Path) -> bytes:
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "keys"]
    assert files
    return b"".join(path.read_bytes() for path in files)


async def test_the_database_holds_no_words_and_gives_them_back(tmp_path: Path) -> None:
    keys = await ring(tmp_path)
    store = await opened(tmp_path, keys)
    await store.apply([conversation(), utterance(final=True), action()])
    assert SECRET.encode() not in bytes_in(tmp_path)
    found = await store.conversation(TENANT, "c1")
    assert found is not None
    assert found["utterances"][0]["text"] == SECRET
    assert found["actions"][0]["action"]["evidence"][0]["text"] == SECRET
    await store.stop()


async def test_a_row_put_into_another_tenants_conversation_does_not_open(tmp_path: Path) -> None:
    keys = await ring(tmp_path)
    store = await opened(tmp_path, keys)
    await store.apply([conversation(), utterance(final=True), conversation(tenant_id=OTHER)])
    with sqlite3.connect(tmp_path / "cueline.db") as thief:
        thief.execute("UPDATE utterances SET tenant_id = 'retail_bank'")
    thief.close()
    with pytest.raises(ValueError, match="another place"):
        await store.conversation(OTHER, "c1")
    await store.stop()


async def test_destroying_the_key_erases_what_is_stored_and_what_comes(tmp_path: Path) -> None:
    keys = await ring(tmp_path)
    store = await opened(tmp_path, keys)
    await store.apply([conversation(), utterance(final=True), conversation(tenant_id=OTHER)])
    await LocalKeys(tmp_path / "keys").destroy(TENANT)
    await keys.check([])
    with pytest.raises(Gone):
        await store.conversation(TENANT, "c1")
    await store.apply([utterance("u2"), utterance("u3", tenant_id=OTHER)])
    assert await store.revisions(TENANT, "c1") == {"u1": (1, True)}
    assert await store.revisions(OTHER, "c1") == {"u3": (1, False)}
    await store.stop()


async def test_the_journal_holds_no_words_and_survives_a_restart(tmp_path: Path) -> None:
    keys, shelf = await ring(tmp_path), Shelf()
    shelf.is_away = True
    outbox = Outbox(tmp_path / "outbox", shelf, limits=QUICK, keys=keys)
    await outbox.start()
    await outbox.put(utterance())
    assert SECRET.encode() not in bytes_in(tmp_path)
    await outbox.stop()
    shelf.is_away = False
    outbox = Outbox(tmp_path / "outbox", shelf, limits=QUICK, keys=await ring(tmp_path))
    await outbox.start()
    await outbox.drained()
    assert shelf.applied == [utterance()]
    await outbox.stop()


async def test_a_journal_from_before_there_were_keys_is_drained(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.is_away = True
    for keys in (None, await ring(tmp_path)):
        outbox = Outbox(tmp_path / "outbox", shelf, limits=QUICK, keys=keys)
        await outbox.start()
        await outbox.put(utterance("sealed" if keys else "plain"))
        if keys:
            shelf.is_away = False
            await outbox.drained()
        await outbox.stop()
    assert shelf.applied == [utterance("plain"), utterance("sealed")]


async def test_records_of_a_destroyed_key_leave_the_journal_and_hold_nothing_up(tmp_path: Path) -> None:
    keys, shelf = await ring(tmp_path), Shelf()
    shelf.is_away = True
    outbox = Outbox(tmp_path / "outbox", shelf, limits=QUICK, keys=keys)
    await outbox.start()
    await outbox.put(utterance("u1"))
    await outbox.put(utterance("u2", tenant_id=OTHER))
    await outbox.stop()
    await LocalKeys(tmp_path / "keys").destroy(TENANT)
    shelf.is_away = False
    told: list[str] = []
    outbox = Outbox(
        tmp_path / "outbox", shelf, limits=QUICK, keys=await ring(tmp_path), on_notice=lambda n: told.append(n.code)
    )
    await outbox.start()
    with pytest.raises(Unavailable):
        await outbox.put(utterance("u3"))
    await outbox.drained()
    assert shelf.applied == [utterance("u2", tenant_id=OTHER)]
    assert outbox.counters.erased == 1
    assert told == ["outbox_without_key"]
    await outbox.stop()


async def test_what_was_set_aside_of_a_conversation_can_be_forgotten(tmp_path: Path) -> None:
    keys, shelf = await ring(tmp_path), Shelf()
    shelf.refused = lambda record: True
    outbox = Outbox(tmp_path / "outbox", shelf, limits=QUICK, keys=keys)
    await outbox.start()
    for record in (utterance("u1"), utterance("u2", conversation_id="c2"), receipt()):
        outbox.put_nowait(record)
    await outbox.drained()
    assert await outbox.forget_refused(TENANT, "c1") == 2
    assert await outbox.forget_refused(TENANT, "c1") == 0
    assert await outbox.forget_refused(TENANT, "c2") == 1
    assert (tmp_path / "outbox" / REFUSED).read_bytes() == b""
    await outbox.stop()


async def test_a_rotated_journal_leaves_nothing_of_what_the_store_has(tmp_path: Path) -> None:
    shelf = Shelf()
    outbox = Outbox(tmp_path, shelf, limits=QUICK)
    await outbox.start()
    await outbox.put(utterance())
    await outbox.drained()
    assert SECRET.encode() in bytes_in(tmp_path)
    await outbox.rotate()
    await outbox.put(receipt())
    await outbox.drained()
    assert SECRET.encode() not in bytes_in(tmp_path)
    await outbox.stop()


async def test_a_database_from_before_there_were_keys_is_read_and_its_rows_are_sealed_when_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cueline.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql(
            "INSERT INTO conversations VALUES ('car_service', 'c1', 1, 'a1', 'ended', 'p', 'en', 1.0, 2.0)"
        )
        for number in range(1200):
            connection.exec_driver_sql(
                "INSERT INTO utterances VALUES ('car_service', 'c1', ?, 1, 'customer', ?, 9, ?, "
                "'[{\"text\":\"my\"}]', 'en', 1.0, 1, 'speech', '{}')",
                (f"u{number}", number, f"{SECRET} {number} naïve"),
            )
        connection.exec_driver_sql(
            "INSERT INTO actions VALUES ('car_service', 'c1', 'a1', 1, 'hint', 'new', '{\"title\":\"it\"}', '{}')"
        )
    engine.dispose()
    store = await opened(tmp_path, await ring(tmp_path))
    found = await store.conversation(TENANT, "c1")
    assert found is not None
    assert [said["text"] for said in found["utterances"]] == [f"{SECRET} {n} naïve" for n in range(1200)]
    assert found["utterances"][0]["words"] == [{"text": "my"}]
    assert found["actions"][0]["action"] == {"title": "it"}
    await store.apply([utterance("u7", 2, "the new words", final=True)])
    await store.stop()
    assert b"the new words" not in bytes_in(tmp_path)
