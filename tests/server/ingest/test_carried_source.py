"""A source that is carried: whatever becomes of its call's owners, each of them has what the others did not store."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from server.ingest.audio import AudioFormat
from server.ingest.carried_source import (
    KEPT_S,
    MAX_PAUSE_S,
    PATIENCE_S,
    REFUSED_PATIENCE_S,
    Announced,
    CarriedSource,
    Way,
)
from server.ingest.legs import LegLost
from server.log.leases import Elsewhere
from server.metrics import Metrics
from server.wire.errors import BadAudio, Busy, Forbidden, Unavailable
from tests.server.ingest.fakes import Desk, Ears
from tests.virtual_time import virtual_time

RATE_HZ = 8000
FRAME = 160
FORMAT = AudioFormat("linear16", RATE_HZ, ("customer",))


class Leg:
    """To an owner that notes each sample at its place, stores what it is told to, and may die."""

    def __init__(self, fleet, start, on_told):
        self.start_ms = max(start.start_ms, fleet.stored_ms)
        fleet.are_live.append(start.is_live)
        if start.lost_from_ms is not None:
            fleet.gaps.append((start.lost_from_ms, start.start_ms))
        self.stored_ms = self.start_ms
        self.is_broken = False
        self.fails_at = None
        self.stopped = None
        self._fleet, self._on_told = fleet, on_told
        self._at = self.start_ms * RATE_HZ // 1000

    async def feed(self, frame):
        if self.is_broken:
            raise LegLost("dead")
        for sample in np.frombuffer(frame, "<i2"):
            known = self._fleet.heard.setdefault(self._at, int(sample))
            assert known == sample, "a sample changed its place"
            self._at += 1
        if self.fails_at is not None and self._at >= self.fails_at:
            self.die()

    async def finalize(self):
        pass

    async def stop(self, *, call_ended, reason):
        if self.is_broken:
            raise LegLost("dead")
        self.stopped = call_ended
        self.store()

    async def drop(self):
        self.is_broken = True

    def store(self):
        self.stored_ms = self._fleet.stored_ms = self._at * 1000 // RATE_HZ
        self._on_told()

    def die(self):
        """What it did not store is forgotten."""
        self.is_broken = True
        stored = self._fleet.stored_ms * RATE_HZ // 1000
        self._fleet.heard = {at: value for at, value in self._fleet.heard.items() if at < stored}
        self._on_told()


class Fleet:
    """Desk and relay of a process whose calls are all elsewhere."""

    is_possible = True

    def __init__(self):
        self.heard = {}
        self.stored_ms = 0
        self.legs = []
        self.gaps = []
        self.are_live = []
        self.refusal = None
        self.fails_at = []

    async def open(self, *args, **options):
        if isinstance(args[0], Elsewhere):
            if self.refusal is not None:
                raise self.refusal
            self.legs.append(Leg(self, *args[1:]))
            self.legs[-1].fails_at = self.fails_at.pop(0) if self.fails_at else None
            await asyncio.sleep(0.01)
            return self.legs[-1]
        raise Elsewhere("owner")

    @property
    def samples(self):
        assert sorted(self.heard) == list(range(len(self.heard))), "a hole"
        return [self.heard[at] for at in range(len(self.heard))]


class Carried:
    def __init__(self, fleet):
        self.fleet = fleet
        self.failures = []
        self.spoken = []
        self.metrics = Metrics()
        way = Way(fleet, Ears(), fleet, self.metrics)
        self.source = CarriedSource(way, Announced("t", "c1", FORMAT), self.failures.append)

    async def speak(self, seconds):
        for _ in range(int(seconds * RATE_HZ / FRAME)):
            samples = np.arange(len(self.spoken), len(self.spoken) + FRAME, dtype=np.int64) % 30_000 + 1
            self.spoken += samples.tolist()
            await self.source.feed(samples.astype("<i2").tobytes())
            await asyncio.sleep(FRAME / RATE_HZ)


@virtual_time
async def test_owners_die_at_random_moments_and_every_sample_arrives_at_its_place():
    chance = random.Random(5)
    for _ in range(8):
        carried = Carried(Fleet())
        await carried.source.open()
        for _ in range(12):
            await carried.speak(chance.uniform(0.1, 1.5))
            leg = carried.fleet.legs[-1]
            match chance.choice(["store", "die", "drain", "in the midst of what it is sent again"]):
                case "store" if not leg.is_broken:
                    leg.store()
                case "die":
                    leg.die()
                case "drain" if not leg.is_broken:
                    leg.store()
                    carried.source.move()
                case "in the midst of what it is sent again":
                    carried.fleet.fails_at = [(carried.fleet.stored_ms + 100) * RATE_HZ // 1000]
                    leg.die()
        await carried.source.leave()
        assert carried.fleet.samples == carried.spoken
        assert carried.fleet.are_live == [True, *[False] * (len(carried.fleet.legs) - 1)]
        assert carried.fleet.legs[-1].stopped
        assert (carried.failures, carried.fleet.gaps) == ([], [])


@virtual_time
async def test_what_was_kept_for_too_long_is_told_as_a_gap():
    carried = Carried(Fleet())
    await carried.source.open()
    await carried.speak(1)
    carried.fleet.legs[-1].store()
    await carried.speak(3)
    carried.fleet.legs[-1].die()
    carried.fleet.refusal = Unavailable("nobody")
    await carried.speak(PATIENCE_S - 2)
    carried.fleet.refusal = None
    await carried.speak(1)
    await carried.source.leave()
    ((lost_from_ms, to_ms),) = carried.fleet.gaps
    assert lost_from_ms == 1000
    assert 1000 * (4 + PATIENCE_S - 2 - KEPT_S) <= to_ms <= 1000 * (4 + PATIENCE_S - 1 - KEPT_S)
    stored, there = RATE_HZ, to_ms * RATE_HZ // 1000
    heard = carried.fleet.heard
    assert [heard[at] for at in sorted(heard)] == carried.spoken[:stored] + carried.spoken[there:]
    assert sorted(heard) == [*range(stored), *range(there, len(carried.spoken))]


@virtual_time
@pytest.mark.parametrize(
    ("refusal", "patience_s"), [(Unavailable("nobody"), PATIENCE_S), (Forbidden("not here"), REFUSED_PATIENCE_S)]
)
async def test_it_gives_up_once_and_says_why(refusal, patience_s):
    carried = Carried(Fleet())
    carried.fleet.refusal = refusal
    began_s = asyncio.get_running_loop().time()
    await carried.source.open()
    while not carried.failures:
        await carried.speak(0.1)
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(patience_s, abs=1.0)
    assert carried.failures == [refusal]
    await carried.source.leave()


@virtual_time
async def test_the_last_words_wait_for_the_next_owner():
    carried = Carried(Fleet())
    await carried.source.open()
    await carried.speak(1)
    carried.fleet.legs[-1].die()
    carried.fleet.refusal = Busy("its former socket is not dead yet")
    leaving = asyncio.create_task(carried.source.leave(call_ended=False))
    await asyncio.sleep(2)
    assert not leaving.done()
    carried.fleet.refusal = None
    await leaving
    assert carried.fleet.samples == carried.spoken
    assert carried.fleet.legs[-1].stopped is False


@virtual_time
async def test_a_frame_that_does_not_fit_is_refused_wherever_the_call_is():
    carried = Carried(Fleet())
    await carried.source.open()
    with pytest.raises(BadAudio):
        await carried.source.feed(b"\1")
    await carried.speak(0.1)
    await carried.source.leave()
    assert carried.fleet.samples == carried.spoken


@virtual_time
async def test_a_call_of_this_process_that_it_loses_goes_on_at_the_next_owner():
    desk, fleet = Desk(), Fleet()
    carried = Carried(fleet)
    ears = Ears()
    carried.source._way = Way(desk, ears, fleet, carried.metrics)
    await carried.source.open()
    await carried.speak(1)
    heard = ears.samples("c1", "customer")
    assert np.frombuffer(heard, np.int16).tolist() == carried.spoken
    assert desk.covered["t", "c1", "customer"] == 640
    fleet.stored_ms = 640
    carried.source._way = Way(fleet, ears, fleet, carried.metrics)
    carried.source.move()
    await carried.speak(1)
    await carried.source.leave()
    assert desk.lost == [("c1", ("customer",))]
    assert [fleet.heard[at] for at in sorted(fleet.heard)] == carried.spoken[640 * RATE_HZ // 1000 :]
    assert carried.metrics.live_streams._value.get() == 0


@virtual_time
async def test_what_is_kept_begins_at_a_whole_millisecond_at_every_rate():
    fleet = Fleet()
    way = Way(fleet, Ears(), fleet, Metrics())
    source = CarriedSource(way, Announced("t", "c1", AudioFormat("mulaw", 44_100, ("agent",))), print)
    fleet.refusal = Unavailable("nobody")
    await source.open()
    for _ in range(KEPT_S + 5):
        await source.feed(bytes(44_101))
    start = source._tape.start
    assert start > 0
    assert source._grid.position_of(source._grid.ms_of(start)) == start
    source._moving.cancel()
    await source.leave()


@virtual_time
async def test_an_owner_that_drops_what_it_takes_is_not_hammered_at_and_given_up():
    carried = Carried(Fleet())
    carried.fleet.fails_at = [0] * 1000
    await carried.source.open()
    while not carried.failures:
        await carried.speak(0.1)
    assert len(carried.fleet.legs) <= 2 * PATIENCE_S / MAX_PAUSE_S
    await carried.source.leave()
