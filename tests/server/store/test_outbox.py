from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from server.store.contract import Record, UtteranceRecord
from server.store.framing import frame, scan
from server.store.outbox import REFUSED, Outbox, OutboxLimits
from server.store.records import rows
from server.store.sql import SqlStore
from server.wire.errors import ConfigError, Unavailable
from server.wire.publication import Notice
from tests.examples import examples
from tests.server.store.records import TENANT, conversation, receipt, utterance
from tests.virtual_time import run_virtual, virtual_time

FAST = OutboxLimits(linger_s=0, drain_linger_s=0, retry_cap_s=0.2)


def fast(**changes: Any) -> OutboxLimits:
    return replace(FAST, **changes)


def name_of(record: Record) -> str:
    assert isinstance(record, UtteranceRecord)
    return record.utterance.utterance_id


class Shelf:
    """A store in memory: goes away, refuses and hangs on demand."""

    def __init__(self) -> None:
        self.applied: list[Record] = []
        self.batches: list[int] = []
        self.is_away = False
        self.hangs = False
        self.refused: Callable[[Record], bool] = lambda _: False
        self.attempts = 0

    async def apply(self, records: Sequence[Record]) -> None:
        self.attempts += 1
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.is_away:
            raise Unavailable("away")
        if any(map(self.refused, records)):
            raise ValueError("not this one")
        self.applied += records
        self.batches.append(len(records))

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def conversations(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return []

    async def conversation(self, *_: Any) -> dict[str, Any] | None:
        return None

    async def agent_of(self, *_: Any) -> tuple[bool, None]:
        return False, None

    async def has_action(self, *_: Any) -> bool:
        return False

    async def covered_ms(self, *_: Any) -> int:
        return 0

    async def revisions(self, *_: Any) -> dict[str, tuple[int, bool]]:
        return {}


def outbox(folder: Path, store: Any, limits: OutboxLimits = FAST) -> tuple[Outbox, list[str]]:
    told: list[str] = []
    return Outbox(folder, store, limits=limits, on_notice=lambda notice: told.append(_code(notice))), told


def _code(notice: Notice) -> str:
    return notice.code


def journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


@virtual_time
async def test_records_reach_the_store_in_order(tmp_path: Path) -> None:
    shelf = Shelf()
    subject, told = outbox(tmp_path, shelf)
    await subject.start()
    records: list[Record] = [utterance(f"u{n}") for n in range(1200)]
    for record in records[:-1]:
        subject.put_nowait(record)
    await subject.put(records[-1])
    await subject.drained()
    assert shelf.applied == records
    assert max(shelf.batches) <= FAST.max_batch_records
    assert subject.waiting_records == 0
    await subject.stop()
    assert journals(tmp_path) == []
    assert told == []


@virtual_time
async def test_put_is_done_when_it_is_on_the_disk(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.is_away = True
    subject, _ = outbox(tmp_path, shelf)
    await subject.start()
    done = subject.put(utterance())
    assert not done.done()
    assert journals(tmp_path) == []
    await done
    (payload,) = scan(journals(tmp_path)[0].read_bytes()).payloads
    assert msgspec.msgpack.decode(payload, type=Record) == utterance()
    await subject.stop()


@virtual_time
async def test_a_store_that_is_away_is_waited_for(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.is_away = True
    subject, told = outbox(tmp_path, shelf)
    await subject.start()
    for number in range(5):
        await subject.put(utterance(f"u{number}"))
    await asyncio.sleep(60)
    assert subject.is_store_away
    assert subject.waiting_records == 5
    assert 60 / FAST.retry_cap_s <= shelf.attempts < 60 * 50
    shelf.is_away = False
    await subject.drained()
    assert [*map(name_of, shelf.applied)] == [f"u{n}" for n in range(5)]
    assert told == ["store_away", "store_back"]
    await subject.stop()


@virtual_time
async def test_a_store_that_hangs_counts_as_away(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.hangs = True
    subject, told = outbox(tmp_path, shelf)
    await subject.start()
    await subject.put(utterance())
    await asyncio.sleep(FAST.apply_s + 1)
    assert told == ["store_away"]
    shelf.hangs = False
    await subject.drained()
    await subject.stop()


@virtual_time
async def test_what_could_not_be_drained_is_drained_by_the_next_run(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.is_away = True
    subject, _ = outbox(tmp_path, shelf)
    await subject.start()
    await subject.put(utterance("u1"))
    await subject.stop()
    shelf.is_away = False
    again, _ = outbox(tmp_path, shelf)
    await again.start()
    assert shelf.applied == [utterance("u1")], "the start waits for what was left"
    await again.stop()


@virtual_time
async def test_the_start_does_not_wait_for_a_store_that_is_away(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.is_away = True
    subject, _ = outbox(tmp_path, shelf)
    await subject.start()
    await subject.put(utterance())
    await subject.stop()
    again, _ = outbox(tmp_path, shelf)
    await again.start()
    assert again.waiting_records == 1
    await again.stop()


@virtual_time
async def test_a_refused_record_is_set_aside_and_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf()
    bad = {"u3", "u7"}
    shelf.refused = lambda record: name_of(record) in bad
    subject, told = outbox(tmp_path, shelf, fast(linger_s=0.01))
    await subject.start()
    with caplog.at_level(logging.INFO):
        for number in range(10):
            subject.put_nowait(utterance(f"u{number}", text="secret words"))
        await subject.drained()
    assert [*map(name_of, shelf.applied)] == [f"u{n}" for n in range(10) if f"u{n}" not in bad]
    aside = scan((tmp_path / REFUSED).read_bytes()).payloads
    assert {name_of(msgspec.msgpack.decode(payload, type=Record)) for payload in aside} == bad
    assert told == ["record_refused"] * 2
    assert "secret" not in caplog.text
    assert subject.waiting_records == 0
    await subject.stop()


@virtual_time
async def test_a_record_of_a_newer_version_is_set_aside(tmp_path: Path) -> None:
    payload = msgspec.msgpack.encode({"type": "from_the_future"})
    (tmp_path / "0000000001.journal").write_bytes(frame(payload))
    shelf = Shelf()
    subject, told = outbox(tmp_path, shelf)
    await subject.start()
    assert scan((tmp_path / REFUSED).read_bytes()).payloads == [payload]
    assert told == ["record_refused"]
    await subject.stop()


@virtual_time
async def test_a_full_disk_quota_refuses_and_says_so(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.is_away = True
    subject, told = outbox(tmp_path, shelf, fast(max_disk_bytes=2000, max_segment_bytes=800))
    await subject.start()
    taken = 0
    with contextlib.suppress(Unavailable):
        while taken < 100:
            await subject.put(utterance(f"u{taken}"))
            taken += 1
    assert 1 < taken < 20
    with pytest.raises(Unavailable):
        subject.put_nowait(utterance())
    assert told.count("outbox_full") == 1
    shelf.is_away = False
    await subject.drained()
    assert len(shelf.applied) == taken
    await subject.put(utterance("later"))
    await subject.stop()


@virtual_time
async def test_a_disk_that_fails_is_told_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    subject, told = outbox(tmp_path, shelf)
    await subject.start()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        with pytest.raises(Unavailable):
            await subject.put(utterance("u1"))
        subject.put_nowait(utterance("u2"))
        assert told == ["outbox_not_durable"]
    await asyncio.sleep(10)
    await subject.drained()
    assert shelf.applied == [utterance("u1"), utterance("u2")]
    assert told == ["outbox_not_durable", "outbox_durable"]
    await subject.stop()


@virtual_time
async def test_nobody_has_to_await_a_put(tmp_path: Path) -> None:
    subject, _ = outbox(tmp_path, Shelf())
    await subject.start()
    subject.put(utterance())
    await subject.stop()
    subject.put(utterance())  # refused, and no warning either


@virtual_time
async def test_a_cancelled_put_leaves_the_others(tmp_path: Path) -> None:
    shelf = Shelf()
    subject, _ = outbox(tmp_path, shelf)
    await subject.start()
    first, second = subject.put(utterance("u1")), subject.put(utterance("u2"))
    first.cancel()
    await second
    await subject.drained()
    assert len(shelf.applied) == 2
    await subject.stop()


async def test_a_folder_in_use_refuses_the_start(tmp_path: Path) -> None:
    first, _ = outbox(tmp_path, Shelf())
    await first.start()
    second, _ = outbox(tmp_path, Shelf())
    with pytest.raises(ConfigError):
        await second.start()
    await first.stop()


@virtual_time
async def test_an_idle_outbox_leaves_a_small_journal(tmp_path: Path) -> None:
    subject, _ = outbox(tmp_path, Shelf(), fast(max_segment_bytes=4000))
    await subject.start()
    for number in range(300):
        await subject.put(utterance(f"u{number}"))
    await subject.drained()
    assert sum(path.stat().st_size for path in journals(tmp_path)) < 4000
    await subject.stop()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'cueline.db'}")
    await store.start()
    yield store
    await store.stop()


async def test_it_fills_a_real_store(store: SqlStore, tmp_path: Path) -> None:
    subject, _ = outbox(tmp_path / "outbox", store, OutboxLimits())
    await subject.start()
    subject.put_nowait(conversation())
    for revision in range(1, 101):
        subject.put_nowait(utterance("u1", revision, final=revision == 100))
    await subject.put(receipt())
    await subject.drained()
    assert await store.revisions(TENANT, "c1") == {"u1": (100, True)}
    found = await store.conversation(TENANT, "c1")
    assert found is not None
    assert len(found["receipts"]) == 1
    await subject.stop()


def copy_if_there(source: str, target: str) -> None:
    """The drain goes on while the folder is copied; what it deletes has reached the store."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(source, target)


class Crashes(RuleBasedStateMachine):
    """Whatever dies, what was acknowledged is in the store afterwards, once, in its newest revision."""

    @initialize()
    def begin(self) -> None:
        self.root = tempfile.TemporaryDirectory()
        self.life = 0
        self.revision = 0
        self.acknowledged: dict[str, int] = {}
        self.offered: dict[str, int] = {}
        self.shelf = Shelf()

    def teardown(self) -> None:
        self.shelf.is_away = False
        self.run(lambda subject: subject.drained())
        kept = {row["utterance_id"]: row["revision"] for row in rows(self.shelf.applied).get("utterances", [])}
        for name, revision in self.acknowledged.items():
            assert kept.get(name, 0) >= revision, "an acknowledged record was lost"
        for name, revision in kept.items():
            assert revision <= self.offered[name]
        self.root.cleanup()

    @property
    def folder(self) -> Path:
        return Path(self.root.name) / str(self.life)

    def run(self, use: Callable[[Outbox], Any], copy_to: Path | None = None) -> None:
        async def life() -> None:
            subject, _ = outbox(self.folder, self.shelf, fast(max_segment_bytes=600, stop_s=1))
            await subject.start()
            try:
                await use(subject)
                if copy_to is not None:
                    shutil.copytree(self.folder, copy_to, copy_function=copy_if_there)
            finally:
                await subject.stop()

        run_virtual(life())

    @rule(names=st.lists(st.sampled_from("abcd"), min_size=1, max_size=8), is_away=st.booleans())
    def live(self, names: list[str], is_away: bool) -> None:
        self.shelf.is_away = is_away
        self.run(lambda subject: self.say(subject, names))

    @rule(
        names=st.lists(st.sampled_from("abcd"), min_size=1, max_size=8),
        is_away=st.booleans(),
        torn=st.binary(max_size=30),
        cut=st.integers(0, 400),
    )
    def live_and_crash(self, names: list[str], is_away: bool, torn: bytes, cut: int) -> None:
        """Dies while one more record is being written: the journal's end is any part of it, or garbage."""
        self.shelf.is_away = is_away
        after = self.folder.with_name(str(self.life + 1))
        self.run(lambda subject: self.say(subject, names), copy_to=after)
        self.life += 1
        files = journals(after)
        if files:
            self.revision += 1
            self.offered["z"] = self.revision
            last = frame(msgspec.msgpack.encode(utterance("z", self.revision)))
            with files[-1].open("ab") as file:
                file.write(last[:cut] + torn)

    async def say(self, subject: Outbox, names: list[str]) -> None:
        for name in names:
            self.revision += 1
            self.offered[name] = self.revision
            await subject.put(utterance(name, self.revision))
            self.acknowledged[name] = self.revision


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=examples(40), stateful_step_count=8, deadline=None)
