"""A recogniser and a desk that remember, for everything that brings audio in."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from server.ingest.audio import AudioFormat
from server.log.leases import Elsewhere
from server.speech.contract import Closed, EndOfSpeech
from server.wire.errors import Busy, Overloaded

COVER_EVERY_MS = 640


class Stream:
    """Keeps what it hears at its place on the clock, and says now and then that it is recognised."""

    def __init__(self, ears, call):
        self._ears, self._call, self._at = ears, call, call.start_ms * call.sample_rate_hz // 1000
        self._told_ms = call.start_ms
        self._events = asyncio.Queue()

    async def finalize(self):
        self._ears.finalized.append(self._call.speaker)

    async def send(self, samples):
        heard = self._ears.heard[self._call.conversation_id, self._call.speaker]
        for index in range(0, len(samples), 2):
            known = heard.setdefault(self._at, samples[index : index + 2])
            assert known == samples[index : index + 2], "a sample changed its place"
            self._at += 1
        self._ears.grown.set()
        now_ms = self._at * 1000 // self._call.sample_rate_hz
        if now_ms - self._told_ms >= COVER_EVERY_MS:
            self._told_ms = now_ms
            self._events.put_nowait(EndOfSpeech(self._told_ms, self._told_ms))

    async def close(self):
        self._events.put_nowait(Closed())

    async def events(self):
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, Closed):
                return


class Ears:
    """Recogniser."""

    def __init__(self):
        self.heard = defaultdict(dict)
        self.calls = []
        self.finalized = []
        self.grown = asyncio.Event()

    async def open(self, call):
        self.calls.append(call)
        return Stream(self, call)

    def samples(self, conversation_id, role) -> bytes:
        heard = self.heard[conversation_id, role]
        start = min(heard, default=0)
        assert sorted(heard) == list(range(start, start + len(heard))), "a hole"
        return b"".join(heard[position] for position in range(start, start + len(heard)))


class Source:
    keyterms = ()

    def __init__(self, desk, key, roles):
        self._desk, self._key, self._roles = desk, key, roles

    def resume_ms(self):
        return min((self._desk.covered.get((*self._key, role), 0) for role in self._roles), default=0)

    async def on_speech(self, speaker, event, stamps):
        pass

    async def stored(self, covered_ms):
        for role in self._roles:
            self._desk.covered[*self._key, role] = covered_ms

    def now_ms(self):
        end_ms, at_s = self._desk.clocks.get(self._key, (0, 0))
        return max(self.resume_ms(), end_ms + (asyncio.get_running_loop().time() - at_s) * 1000 if at_s else 0)

    async def stop(self, *, call_ended=True, reason="stopped", end_ms=0):
        self._desk.open_sources.remove((*self._key, self._roles))
        if call_ended:
            self._desk.stops.append((self._key[1], self._roles, reason))
        self._desk.stopped.set()

    def assign(self, agent_id):
        self._desk.assigned.append((self._key[1], agent_id))

    def lost(self, end_ms=0):
        self._desk.clocks[self._key] = end_ms, asyncio.get_running_loop().time()
        self._desk.open_sources.remove((*self._key, self._roles))
        self._desk.lost.append((self._key[1], self._roles))
        self._desk.stopped.set()


class Desk:
    """Opens calls and remembers what is covered, as a store does."""

    def __init__(self):
        self.covered = {}
        self.clocks = {}
        self.open_sources = []
        self.stops = []
        self.lost = []
        self.assigned = []
        self.is_full = False
        self.starts = []
        self.stopped = asyncio.Event()
        """Set whenever a source leaves."""

    async def agent_of(self, tenant_id, conversation_id):
        return False, None

    async def open(self, tenant_id, conversation_id, *, agent_id, language, roles, customer_id=None):
        if self.is_full:
            raise Overloaded("no room")
        taken = {role for *key, held in self.open_sources if key == [tenant_id, conversation_id] for role in held}
        if taken & set(roles):
            raise Busy("this side is being streamed by another source")
        self.open_sources.append((tenant_id, conversation_id, roles))
        self.starts.append((tenant_id, conversation_id, agent_id, language, roles))
        return Source(self, (tenant_id, conversation_id), roles)


class RelayedLeg:
    """A source's way to another process that takes all it gets."""

    stored_ms = 0
    is_broken = False

    def __init__(self, elsewhere, start):
        self.start_ms, self.start = start.start_ms, start
        self._elsewhere = elsewhere

    async def feed(self, frame):
        format = AudioFormat.of(self.start)
        for role, samples in zip(format.roles, format.split(frame), strict=True):
            self._elsewhere.heard[role] += samples.tobytes()
        self._elsewhere.grown.set()

    async def finalize(self):
        pass

    async def stop(self, *, call_ended, reason):
        self._elsewhere.stops.append(call_ended)

    async def drop(self):
        pass


class AllElsewhere:
    """Desk and relay of a process all of whose calls live in another one."""

    is_possible = True

    def __init__(self):
        self.heard = defaultdict(bytes)
        self.starts = []
        self.stops = []
        self.refusal = None
        self.grown = asyncio.Event()

    async def agent_of(self, tenant_id, conversation_id):
        return False, None

    async def open(self, where, *args, **options):
        if not isinstance(where, Elsewhere):
            raise Elsewhere("owner")
        if self.refusal is not None:
            raise self.refusal
        self.starts.append(args[0])
        return RelayedLeg(self, args[0])
