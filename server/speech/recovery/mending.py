"""Recognises again what live left behind, on a second stream, while live goes on.

    hole [start, end) ─▶ keeper ─paced─▶ recogniser ─▶ finals, and how far they reach

A mend that fails goes on where it settled last. Only finals pass: an interim of a minute ago helps nobody.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from server.speech.contract import Closed, Final, Recogniser, SpeechCall, SpeechEvent, SpeechStream
from server.speech.recovery.clock import SampleClock
from server.speech.recovery.keeper import Keeper
from server.speech.recovery.settings import RecoverySettings
from server.speech.recovery.tape import BYTES_PER_SAMPLE
from server.speech.recovery.timeline import Timeline
from server.speech.recovery.watchdog import StallWatch
from server.wire.errors import CuelineError, Overloaded, Unavailable

log = logging.getLogger(__name__)

_CHUNK_MS = 100


@dataclass(slots=True)
class Hole:
    """Samples that no final covers; `start` moves as it is mended."""

    start: int
    end: int


class Listener(Protocol):
    """What the live side does with what was mended."""

    def mended(self, final: Final) -> None:
        """A final from a hole."""

    def progressed(self) -> None:
        """Holes are smaller."""

    def gone(self, from_position: int, to_position: int) -> None:
        """The audio of a hole was given up before it could be heard again."""


class Mender:
    """Works the holes of one side, oldest first.

    Args:
        call: The side.
        keeper: Holds the audio.
        clock: Samples to audio time.
        settings: Numbers.
        listener: Told what comes out.
        draw: Uniform from 0 to 1.
        on_replayed: Told the seconds of audio that were sent again.
    """

    def __init__(
        self,
        call: SpeechCall,
        keeper: Keeper,
        clock: SampleClock,
        settings: RecoverySettings,
        listener: Listener,
        draw: Callable[[], float] = random.random,
        on_replayed: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._call = call
        self._keeper = keeper
        self._clock = clock
        self._settings = settings
        self._listener = listener
        self._draw = draw
        self._on_replayed = on_replayed
        self._holes: deque[Hole] = deque()
        self._recogniser: Recogniser | None = None
        self._wake = asyncio.Event()
        self._whole = asyncio.Event()
        self._whole.set()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    @property
    def holes(self) -> tuple[Hole, ...]:
        """What is still missing, oldest first."""
        return tuple(self._holes)

    def add(self, hole: Hole) -> None:
        """Mend it as soon as a recogniser answers."""
        self._holes.append(hole)
        self._whole.clear()
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"speech-mending-{self._call.speaker}")

    def use(self, recogniser: Recogniser | None) -> None:
        """Mend with this one: the one that live audio goes to. None: none answers now."""
        self._recogniser = recogniser
        self._wake.set()

    async def finish(self) -> None:
        """Return when nothing is missing any more."""
        await self._whole.wait()

    async def stop(self) -> None:
        """Stop; what is missing stays missing. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        while True:
            while not self._holes or self._recogniser is None:
                self._wake.clear()
                await self._wake.wait()
            hole, settings = self._holes[0], self._settings
            try:
                if self._is_there(hole):
                    await self._mend(hole, self._recogniser)
                    failures = 0
            except* (CuelineError, OSError) as group:
                failures += 1
                log.warning("mending failed", extra={"reason": type(group.exceptions[0]).__name__})
                reach_s = min(settings.backoff_cap_s, settings.backoff_base_s * 2**failures)
                await asyncio.sleep(self._draw() * reach_s)
            if hole.start >= hole.end:
                self._holes.popleft()
                self._listener.progressed()
                if not self._holes:
                    self._whole.set()

    def _is_there(self, hole: Hole) -> bool:
        """Whether anything of it can still be heard; what cannot is told."""
        start = self._keeper.start
        if start > hole.start:
            lost_from, hole.start = hole.start, min(start, hole.end)
            self._listener.gone(lost_from, hole.start)
        return hole.start < hole.end

    async def _mend(self, hole: Hole, recogniser: Recogniser) -> None:
        """Hear a hole again.

        Raises:
            ExceptionGroup: Of `CuelineError`s or `OSError`s; `hole.start` is where to go on.
        """
        start_ms = self._clock.ms_of(hole.start)
        self._is_closing = False
        async with asyncio.timeout(self._settings.connect_timeout_s):
            stream = await recogniser.open(replace(self._call, start_ms=start_ms))
        try:
            async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as group:
                watch = StallWatch(
                    self._call.sample_rate_hz,
                    recogniser.capabilities.stall_after_s,
                    asyncio.get_running_loop().time(),
                )
                group.create_task(self._feed(stream, hole, recogniser.capabilities.replay_speed, watch, limit))
                group.create_task(self._listen(stream, hole, Timeline(start_ms), watch))
        finally:
            await stream.abandon()
        hole.start = hole.end

    async def _feed(
        self, stream: SpeechStream, hole: Hole, speed: float, watch: StallWatch, limit: asyncio.Timeout
    ) -> None:
        loop, rate_hz = asyncio.get_running_loop(), self._call.sample_rate_hz
        position, started_s, started = hole.start, loop.time(), hole.start
        while position < hole.end:
            pcm = await self._keeper.read(position, min(hole.end - position, rate_hz * _CHUNK_MS // 1000))
            try:
                await stream.send(pcm)
            except Overloaded:
                await asyncio.sleep(self._settings.overload_pause_s)
                continue
            position += len(pcm) // BYTES_PER_SAMPLE
            self._on_replayed(len(pcm) / BYTES_PER_SAMPLE / rate_hz)
            if watch.sent(pcm, loop.time()):
                raise Unavailable("stalled")
            due_s = started_s + (position - started) / rate_hz / speed
            await asyncio.sleep(max(0.0, due_s - loop.time()))
        self._is_closing = True
        await stream.close()
        limit.reschedule(loop.time() + self._settings.close_limit_s)

    async def _listen(self, stream: SpeechStream, hole: Hole, timeline: Timeline, watch: StallWatch) -> None:
        async for event in stream.events():
            watch.received()
            if isinstance(event, Closed):
                # One that ends in peace before it was asked to has not heard everything either.
                if event.error is not None or not self._is_closing:
                    raise Unavailable("the recogniser was lost") from event.error
                return
            self._take(event, hole, timeline)

    def _take(self, event: SpeechEvent, hole: Hole, timeline: Timeline) -> None:
        kept = timeline.take(event)
        if isinstance(kept, Final):
            self._listener.mended(kept)
        settled = min(self._clock.position_of(timeline.settled_ms), hole.end)
        if settled > hole.start:
            hole.start = settled
            self._listener.progressed()
