"""What every `EventLog` promises. An implementation's test module subclasses the suites and hands them its harness."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.log.contract import ChannelKey, Entry, Event, EventLog, Position
from server.wire.errors import Conflict
from server.wire.ids import TenantId
from tests.server.log.events import (
    CALL,
    action,
    annotation,
    call,
    content,
    decoded,
    event,
    folded,
    notice,
    offsets,
    transcript,
    untimed,
)


class LogHarness(Protocol):
    """A log that can be stopped, crashed and started again."""

    async def start(self) -> EventLog:
        """Start for the first time."""

    async def restart(self) -> EventLog:
        """Stop cleanly, start again."""

    async def crash(self) -> EventLog:
        """Die without stopping, start again."""

    async def stop(self) -> None:
        """Stop and clean up."""


class EventLogSuite:
    """Needs a fixture `harness`."""

    @pytest.fixture
    async def log(self, harness: LogHarness) -> EventLog:
        return await harness.start()

    async def test_offsets_count_from_one_and_the_epoch_stays(self, log: EventLog) -> None:
        first = await log.append(CALL, [transcript("u1"), annotation("u1")])
        second = await log.append(CALL, [action()])
        assert offsets((*first, *second)) == [1, 2, 3]
        assert len({entry.position.epoch for entry in (*first, *second)}) == 1

    async def test_the_body_is_the_publication(self, log: EventLog) -> None:
        said = Event(
            transcript("u1", 2, "naïve 日本 \U0001f600").payload, event(notice().payload).stamps, "00-ab-cd-01"
        )
        (entry,) = await log.append(CALL, [said])
        publication = decoded(entry)
        assert (publication["ch"], publication["ep"], publication["off"]) == ("call:c1", entry.position.epoch, 1)
        assert (publication["kind"], publication["tp"]) == ("transcript", "00-ab-cd-01")
        assert publication["d"]["text"] == "naïve 日本 \U0001f600"
        assert publication["t"]["t4"] == 1.0
        assert publication["t"]["t8"] > 1.6e12
        assert (entry.kind, entry.key, entry.is_interim) == ("transcript", "u1", True)

    async def test_what_counts_as_an_interim(self, log: EventLog) -> None:
        events = [
            transcript("u1", 1),
            msgspec.structs.replace(annotation("u1", 1), is_interim=True),
            transcript("u1", 2, final=True),
            annotation("u1", 2),
            action(),
        ]
        entries = await log.append(CALL, events)
        assert [entry.is_interim for entry in entries] == [True, True, False, False, False]

    async def test_followers_see_entries_before_append_returns(self, log: EventLog) -> None:
        seen: list[Entry] = []
        end = log.follow(CALL, seen.extend)
        entries = await log.append(CALL, [transcript(), annotation()])
        assert untimed(seen) == untimed(entries)
        end()
        end()
        await log.append(CALL, [action()])
        assert len(seen) == 2

    async def test_a_follower_may_leave_while_it_is_told(self, log: EventLog) -> None:
        seen: list[Entry] = []
        ends: list[Callable[[], None]] = []

        def once(entries: Sequence[Entry]) -> None:
            seen.extend(entries)
            ends[0]()

        ends.append(log.follow(CALL, once))
        other: list[Entry] = []
        ends.append(log.follow(CALL, other.extend))
        await log.append(CALL, [transcript()])
        await log.append(CALL, [annotation()])
        assert (len(seen), len(other)) == (1, 2)

    async def test_what_is_appended_together_is_told_without_holes(self, log: EventLog) -> None:
        runs: list[Sequence[Entry]] = []
        log.follow(CALL, runs.append)
        for num in (3, 0, 1, 2):
            await log.append(CALL, [transcript(f"u{num}{n}") for n in range(num)])
        assert all(runs), "nothing is not told"
        assert offsets([entry for run in runs for entry in run]) == [1, 2, 3, 4, 5, 6]

    async def test_channels_and_tenants_never_meet(self, log: EventLog) -> None:
        keys = [CALL, ChannelKey(TenantId("retail_bank"), "call:c1"), ChannelKey(TenantId("car_service"), "call:c2")]
        seen: list[Entry] = []
        log.follow(keys[1], seen.extend)
        for number, key in enumerate(keys, 1):
            await log.append(key, [transcript(f"u{n}") for n in range(number)])
        assert [len(await log.read(key, None, 100)) for key in keys] == [1, 2, 3]
        assert len(seen) == 2
        assert {key async for key in log.channels()} == set(keys)

    async def test_the_tail_after_a_known_position_is_complete(self, log: EventLog) -> None:
        entries = await log.append(CALL, [transcript(f"u{n}") for n in range(10)])
        for entry in entries:
            recovery = await log.recover(CALL, entry.position)
            assert recovery.recovered
            assert recovery.snapshot == ()
            assert content(recovery.tail) == content(entries[entry.position.offset :])
            assert recovery.position == entries[-1].position

    async def test_the_beginning_is_a_position(self, log: EventLog) -> None:
        empty = await log.recover(CALL, None)
        assert (empty.recovered, empty.position.offset, empty.snapshot, empty.tail) == (False, 0, (), ())
        entries = await log.append(CALL, [transcript()])
        assert entries[0].position.epoch == empty.position.epoch
        recovery = await log.recover(CALL, empty.position)
        assert recovery.recovered
        assert [entry.body for entry in recovery.tail] == [entry.body for entry in entries]

    async def test_an_unknown_position_gets_a_snapshot_and_is_told(self, log: EventLog) -> None:
        (entry,) = await log.append(CALL, [transcript()])
        known = entry.position
        for position in (None, Position("other", 0), Position(known.epoch, 2), Position(known.epoch, 10**9)):
            recovery = await log.recover(CALL, position)
            assert not recovery.recovered
            assert recovery.tail == ()
            assert recovery.position == known
            assert content(recovery.snapshot) == content([entry])

    async def test_a_snapshot_is_the_newest_of_each_state(self, log: EventLog) -> None:
        await log.append(CALL, [call(), transcript("u1", 1), annotation("u1", 1), action("a1"), action("a2")])
        await log.append(CALL, [transcript("u1", 2, final=True), action("a1", 2, "expire"), annotation("u1", 2)])
        recovery = await log.recover(CALL, None)
        assert offsets(recovery.snapshot) == [1, 5, 6, 8]

    async def test_reading_in_pages_equals_the_log(self, log: EventLog) -> None:
        entries = await log.append(CALL, [transcript(f"u{n}") for n in range(10)])
        pages: list[Entry] = []
        position: Position | None = None
        while page := await log.read(CALL, position, 3):
            assert len(page) <= 3
            pages += page
            position = page[-1].position
        assert content(pages) == content(entries)

    async def test_reading_after_an_unknown_position_is_refused(self, log: EventLog) -> None:
        await log.append(CALL, [transcript()])
        with pytest.raises(Conflict):
            await log.read(CALL, Position("other", 0), 10)

    async def test_a_trimmed_channel_is_gone_and_begins_anew(self, log: EventLog) -> None:
        (entry,) = await log.append(CALL, [transcript()])
        await log.trim(CALL)
        assert [key async for key in log.channels()] == []
        recovery = await log.recover(CALL, entry.position)
        assert (recovery.recovered, recovery.snapshot) == (False, ())
        (again,) = await log.append(CALL, [transcript()])
        assert again.position.offset == 1
        assert again.position.epoch != entry.position.epoch

    async def test_a_clean_restart_keeps_positions(self, harness: LogHarness, log: EventLog) -> None:
        entries = await log.append(CALL, [transcript("u1", 1), transcript("u1", 2, final=True), action()])
        log = await harness.restart()
        recovery = await log.recover(CALL, entries[0].position)
        assert recovery.recovered
        assert [entry.body for entry in recovery.tail] == [entry.body for entry in entries[1:]]
        (later,) = await log.append(CALL, [annotation("u1", 2)])
        assert later.position == Position(entries[0].position.epoch, 4)

    async def test_what_the_writer_leaves_is_there_for_the_next_and_no_reader_sees_it(
        self, harness: LogHarness, log: EventLog
    ) -> None:
        assert await log.memory(CALL) == b""
        await log.append(CALL, [action()], b"first")
        await log.append(CALL, [action("a2")], b"\x00second")
        await log.append(CALL, [transcript()])
        assert b"second" not in b"".join(entry.body for entry in await log.read(CALL, None, 10))
        log = await harness.restart()
        assert await log.memory(CALL) == b"\x00second"
        await log.append(CALL, [transcript("u2")], b"third")
        assert len((await log.recover(CALL, None)).snapshot) == 4
        await log.trim(CALL)
        assert await log.memory(CALL) == b""

    async def test_a_crash_takes_no_memory_without_its_events(self, harness: LogHarness, log: EventLog) -> None:
        await log.append(CALL, [action()], b"first")
        await log.append(CALL, [action("a2")], b"second")
        log = await harness.crash()
        events = await log.read(CALL, None, 10)
        assert (len(events), await log.memory(CALL)) in [(0, b""), (1, b"first"), (2, b"second")]

    async def test_a_crash_is_told(self, harness: LogHarness, log: EventLog) -> None:
        entries = await log.append(CALL, [transcript(f"u{n}") for n in range(5)])
        log = await harness.crash()
        recovery = await log.recover(CALL, entries[-1].position)
        if recovery.recovered:  # a log that outlives its writer may honestly say so
            assert recovery.tail == ()
        else:
            survived = content(recovery.snapshot)
            assert survived == content(entries)[: len(survived)]
            assert {decoded(entry)["ep"] for entry in recovery.snapshot} <= {recovery.position.epoch}
        (later,) = await log.append(CALL, [action()])
        assert later.position.offset == recovery.position.offset + 1

    async def test_two_appenders_make_one_order(self, log: EventLog) -> None:
        async def speak(speaker: str) -> None:
            for number in range(20):
                await log.append(CALL, [transcript(f"{speaker}{number}")])
                await asyncio.sleep(0)

        seen: list[Entry] = []
        log.follow(CALL, seen.extend)
        await asyncio.gather(speak("a"), speak("b"))
        assert offsets(seen) == list(range(1, 41))
        assert content(await log.read(CALL, None, 100)) == content(seen)


@dataclass
class _Client:
    """A reader with a screen. Knows only what it was sent."""

    position: Position | None = None
    screen: dict[tuple[str, str], object] = field(default_factory=dict)
    end: Callable[[], None] | None = None


class CutClients(RuleBasedStateMachine):
    """Clients cut at random moments always equal the log, or were told that they could not recover.

    Subclasses give `make_harness`.
    """

    def make_harness(self) -> LogHarness:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.harness = self.make_harness()
        self.log = self.runner.run(self.harness.start())
        self.published: list[Entry] = []
        self.clients = [_Client() for _ in range(3)]
        self.revision = 0

    def teardown(self) -> None:
        self.runner.run(self.harness.stop())
        self.runner.close()

    @rule(
        names=st.lists(st.sampled_from("abc"), min_size=1, max_size=4), kind=st.sampled_from(["t", "f", "n", "a", "x"])
    )
    def publish(self, names: list[str], kind: str) -> None:
        self.revision += 1
        made = {
            "t": lambda name: transcript(name, self.revision, f"words {self.revision}"),
            "f": lambda name: transcript(name, self.revision, f"words {self.revision}", final=True),
            "n": lambda name: annotation(name, self.revision),
            "a": lambda name: action(name, self.revision),
            "x": lambda name: action(name, self.revision, "expire"),
        }[kind]
        entries = self.runner.run(self.log.append(CALL, [made(name) for name in names]))
        self.published += entries

    @rule()
    def time_passes(self) -> None:
        self.runner.run(asyncio.sleep(0.002))

    @rule(number=st.integers(0, 2))
    def connect(self, number: int) -> None:
        client = self.clients[number]
        if client.end is not None:
            return

        async def subscribe() -> None:
            asked = client.position
            recovery = await self.log.recover(CALL, asked)
            client.end = self.log.follow(CALL, lambda entries: self._apply(client, entries))
            if recovery.recovered:
                assert asked is not None
                missed = [e for e in self.published if e.position.offset > asked.offset]
                assert content(recovery.tail) == content(missed), "told that nothing was lost"
                self._apply(client, recovery.tail)
            else:
                client.screen = folded(recovery.snapshot)
                assert offsets(recovery.snapshot) == sorted(set(offsets(recovery.snapshot)))
            client.position = recovery.position

        self.runner.run(subscribe())

    @rule(number=st.integers(0, 2))
    def cut(self, number: int) -> None:
        client = self.clients[number]
        if client.end is not None:
            client.end()
            client.end = None

    @rule()
    def restart(self) -> None:
        self._cut_all()
        self.log = self.runner.run(self.harness.restart())

    @rule()
    def crash(self) -> None:
        self._cut_all()
        self.log = self.runner.run(self.harness.crash())
        said = {entry.position.offset: entry for entry in self.published}
        snapshot = self.runner.run(self.log.recover(CALL, None)).snapshot
        complete = self.runner.run(self.log.read(CALL, None, 10**6))
        survived = [entry for entry in snapshot if not complete or entry.position.offset < offsets(complete)[0]]
        survived += complete
        last = max(offsets(survived), default=0)
        assert content(survived) == content(said[offset] for offset in offsets(survived))
        assert folded(survived) == folded(entry for offset, entry in said.items() if offset <= last), "the beginning"
        self.published = survived

    @rule()
    def forget(self) -> None:
        self._cut_all()
        self.runner.run(self.log.trim(CALL))
        self.published = []

    @invariant()
    def connected_clients_equal_the_log(self) -> None:
        expected = folded(self.published)
        for client in self.clients:
            if client.end is not None:
                assert client.screen == expected

    def _apply(self, client: _Client, entries: Sequence[Entry]) -> None:
        for entry in entries:
            client.screen.update(folded([entry]))
            if entry.is_over:
                client.screen.pop((entry.kind, entry.key), None)
            client.position = entry.position

    def _cut_all(self) -> None:
        for number in range(3):
            self.cut(number)
