"""Erasure through the real store, outbox, event log and audit log: afterwards no place has a word of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from server.audit.chain import verify
from server.audit.log import FILE, AuditLog
from server.auth.identity import Identity
from server.keys.keyring import Keyring
from server.keys.local import LocalKeys
from server.log.contract import ChannelKey, Event
from server.log.embedded import EmbeddedLog, LogLimits
from server.privacy import erasure as erasure_module
from server.privacy.erasure import Erasure
from server.privacy.places import CachePlace, EventLogPlace
from server.privacy.retention import Retention
from server.store.outbox import Outbox, OutboxLimits
from server.store.sql import SqlStore
from server.wire.clock import Stamps
from server.wire.errors import Conflict, Unavailable
from server.wire.ids import TenantId
from server.wire.publication import Transcript
from tests.server.store.records import TENANT, action, conversation, utterance

ADMIN = Identity(TENANT, None, frozenset({"admin"}))
OTHER = TenantId("retail_bank")
SECRET = "my oil light"
CALL = ChannelKey(TENANT, "call:c1")
DAY_MS = 24 * 3600 * 1000.0


class _Live:
    def __init__(self) -> None:
        self.calls: set[tuple[str, str]] = set()

    async def is_live(self, tenant_id: TenantId, conversation_id: str) -> bool:
        return (tenant_id, conversation_id) in self.calls


class _Gate(SqlStore):
    """The real store, which can be away."""

    is_away = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.refused = asyncio.Event()

    async def apply(self, records):  # type: ignore[no-untyped-def]
        if self.is_away:
            self.refused.set()
            raise Unavailable("away")
        await super().apply(records)


@dataclass
class World:
    folder: Path
    store: _Gate
    outbox: Outbox
    log: EmbeddedLog
    audit: AuditLog
    live: _Live
    erasure: Erasure
    cleared: list[int] = field(default_factory=list)

    def on_disk(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    # Nothing is sealed here: what is found on the disk is what is there.
    async with a_world(tmp_path, None) as world:
        yield world


@contextlib.asynccontextmanager
async def a_world(tmp_path: Path, keys: Keyring | None) -> AsyncIterator[World]:
    store = _Gate(f"sqlite+aiosqlite:///{tmp_path / 'cueline.db'}", keys=keys)
    await store.start()
    limits = OutboxLimits(linger_s=0, drain_linger_s=0, retry_cap_s=0.05, stop_s=0.2)
    outbox = Outbox(tmp_path / "outbox", store, limits=limits, keys=keys)
    await outbox.start()
    log = EmbeddedLog(tmp_path / "log", limits=LogLimits(linger_s=0), keys=keys)
    await log.start()
    audit = AuditLog(tmp_path / "audit")
    await audit.start()
    live, cleared = _Live(), [7]
    places = (EventLogPlace(log), CachePlace("predictions", lambda: cleared.pop() if cleared else 0))
    world = World(tmp_path, store, outbox, log, audit, live, Erasure(store, outbox, live, audit, places), cleared)
    yield world
    await outbox.stop()
    await audit.stop()
    await log.stop()
    await store.stop()


async def said(world: World, conversation_id: str = "c1", tenant_id: TenantId = TENANT, **changes: object) -> None:
    """A call with an utterance and a card, in the log and on its way to the store."""
    line = Transcript(
        utterance_id="u1", revision=1, speaker="customer", start_ms=0, end_ms=900, text=SECRET, is_final=True
    )
    await world.log.append(ChannelKey(tenant_id, f"call:{conversation_id}"), [Event(line, Stamps())])
    world.outbox.put_nowait(conversation(conversation_id, tenant_id=tenant_id, **changes))  # type: ignore[arg-type]
    world.outbox.put_nowait(utterance(conversation_id=conversation_id, tenant_id=tenant_id, final=True))
    if (tenant_id, conversation_id) == (TENANT, "c1"):
        world.outbox.put_nowait(action())


async def test_an_erased_call_is_nowhere_and_the_receipt_lists_the_places(world: World) -> None:
    await said(world)
    await world.outbox.drained()
    epoch = (await world.log.recover(CALL, None)).position.epoch
    receipt = await world.erasure.erase(ADMIN, ["c1"])
    assert receipt.state == "complete"
    assert [(place.place, place.state, place.items) for place in receipt.places] == [
        ("store", "erased", 3),
        ("outbox", "erased", 0),
        ("event_log", "erased", 1),
        ("predictions", "erased", 7),
    ]
    assert any("audit" in line for line in receipt.remains)
    assert await world.store.conversation(TENANT, "c1") is None
    after = await world.log.recover(CALL, None)
    assert (after.snapshot, after.position.offset) == ((), 0)
    assert after.position.epoch != epoch
    (kept,) = await world.erasure.receipt(TENANT, receipt.receipt_id)
    assert (kept["conversation_id"], kept["requested_by"]) == ("c1", "admin")


async def test_no_file_has_a_word_of_it(world: World) -> None:
    await said(world)
    await world.outbox.drained()
    assert SECRET.encode() in world.on_disk()
    await world.erasure.erase(ADMIN, ["c1"])
    assert SECRET.encode() not in world.on_disk()


async def test_offsets_begin_again_at_one_in_a_new_epoch(world: World) -> None:
    await said(world)
    await world.erasure.erase(ADMIN, ["c1"])
    await said(world)
    read = await world.log.read(CALL, None, 10)
    assert [entry.position.offset for entry in read] == [1]


async def test_what_was_still_in_the_journal_goes_too_and_what_comes_late_stays_out(world: World) -> None:
    world.store.is_away = True
    await said(world)
    erasing = asyncio.create_task(world.erasure.erase(ADMIN, ["c1"]))
    await world.store.refused.wait()
    world.store.is_away = False
    assert (await erasing).state == "complete"
    await world.outbox.put(utterance("u2"))
    await world.outbox.drained()
    assert await world.store.revisions(TENANT, "c1") == {}


async def test_a_store_that_is_away_makes_the_receipt_pending_and_it_comes_true(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure_module, "STORE_WITHIN_S", 0.05)
    await said(world)
    await world.outbox.drained()
    world.store.is_away = True
    receipt = await world.erasure.erase(ADMIN, ["c1"])
    assert receipt.state == "pending"
    assert await world.erasure.receipt(TENANT, receipt.receipt_id) == []
    world.store.is_away = False
    await world.outbox.drained()
    assert await world.store.conversation(TENANT, "c1") is None
    assert len(await world.erasure.receipt(TENANT, receipt.receipt_id)) == 1


async def test_a_live_call_is_not_erased(world: World) -> None:
    await said(world)
    world.live.calls.add((TENANT, "c1"))
    with pytest.raises(Conflict):
        await world.erasure.erase(ADMIN, ["c1"])
    await world.outbox.drained()
    assert await world.store.conversation(TENANT, "c1") is not None


async def test_a_persons_calls_all_go_and_no_other(world: World) -> None:
    await said(world, "c1", customer_id="ann")
    await said(world, "c2", customer_id="ann")
    await said(world, "c3", customer_id="bob")
    await said(world, "c1", OTHER, customer_id="ann")
    receipt = await world.erasure.erase_customer(ADMIN, "ann")
    assert sorted(receipt.conversation_ids) == ["c1", "c2"]
    assert receipt.state == "complete"
    assert await world.store.of_customer(TENANT, "ann") == []
    assert await world.store.conversation(TENANT, "c3") is not None
    assert await world.store.conversation(OTHER, "c1") is not None
    assert (await world.log.recover(ChannelKey(OTHER, "call:c1"), None)).position.offset == 1


async def test_an_erasure_is_noted_before_it_is_done(world: World) -> None:
    await said(world)
    await world.erasure.erase(ADMIN, ["c1"])
    lines = (world.folder / "audit" / FILE).read_bytes().splitlines()
    assert verify(lines).number == 1
    assert b'"erase"' in lines[0]
    assert SECRET.encode() not in lines[0]


async def test_the_clock_of_each_tenant_is_its_own(world: World) -> None:
    now_ms = 400 * DAY_MS
    for number, age_days in enumerate((1, 29, 31, 399)):
        await said(world, f"c{number}", started_ms=now_ms - age_days * DAY_MS)
        await said(world, f"c{number}", OTHER, started_ms=now_ms - age_days * DAY_MS)
    world.live.calls.add((OTHER, "c3"))
    await world.outbox.drained()
    days = {TENANT: 30, OTHER: 365}
    retention = Retention(world.erasure, world.store, lambda tenant_id: days[tenant_id], now_ms=lambda: now_ms)
    await retention.sweep()
    left = {
        tenant: sorted(c["conversation_id"] for c in await world.store.conversations(tenant, limit=9, before_ms=None))
        for tenant in (TENANT, OTHER)
    }
    assert left == {TENANT: ["c0", "c1"], OTHER: ["c0", "c1", "c2", "c3"]}
    assert (await world.log.recover(ChannelKey(TENANT, "call:c2"), None)).position.offset == 0
    world.live.calls.clear()
    await retention.sweep()
    assert await world.store.conversation(OTHER, "c3") is None


async def test_without_the_tenants_key_what_is_left_of_a_call_is_erased_all_the_same(tmp_path: Path) -> None:
    """Names, times and ciphertext stay behind a destroyed key until a request or the retention clock erases them."""
    provider = LocalKeys(tmp_path / "keys")
    keys = Keyring(provider)
    await keys.check([TENANT, OTHER])
    async with a_world(tmp_path, keys) as world:
        await said(world, customer_id="ann")
        await world.outbox.drained()
        assert SECRET.encode() not in world.on_disk()
        await provider.destroy(TENANT)
        await keys.check([TENANT, OTHER])
        receipt = await world.erasure.erase_customer(ADMIN, "ann")
        assert receipt.conversation_ids == ("c1",)
        assert [(place.place, place.state, place.items) for place in receipt.places] == [
            ("store", "erased", 3),
            ("outbox", "erased", 0),
            ("event_log", "erased", 1),
            ("predictions", "erased", 7),
        ]
        assert await world.store.conversations(TENANT, limit=9, before_ms=None) == []
        assert not list((tmp_path / "log").rglob("*c1*"))
