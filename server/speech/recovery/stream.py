"""One side of one call over as many recogniser streams as it takes.

    send ─▶ keeper ─▶ live leg ─▶ timeline ─▶ events
               └────▶ mending of what live left behind ─▶ events

While all is well a frame goes straight to the recogniser and the keeper only remembers it. A leg that is lost (dropped,
stalled, refused) is followed by another one that begins at the last settled sample and hears the rest once more, in one
burst. Is the rest too long for that, live goes on at a quiet moment just passed, and the rest is mended beside it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from dataclasses import replace

from server.speech.contract import (
    Closed,
    Covered,
    EndOfSpeech,
    Final,
    SpeechCall,
    SpeechEvent,
)
from server.speech.recovery.chain import Chain
from server.speech.recovery.clock import SampleClock
from server.speech.recovery.gaps import Gaps
from server.speech.recovery.keeper import Keeper
from server.speech.recovery.leg import Leg, Stalled
from server.speech.recovery.mending import Hole, Mender
from server.speech.recovery.settings import RecoverySettings
from server.speech.recovery.tape import BYTES_PER_SAMPLE
from server.speech.recovery.timeline import Timeline
from server.wire.errors import BadAudio, Overloaded

log = logging.getLogger(__name__)

MAX_UNREAD_EVENTS = 1_000
"""A reader so far behind has stopped reading; recognisers are not read either until it goes on."""
_CHUNK_MS = 100
"""A replay is sent in pieces of this length, so that other calls have their turn."""
_AHEAD_S = 5.0
"""A source so far ahead of real time can wait; one in real time cannot."""


class RecoveredStream:
    """Implements `SpeechStream` and never closes with a recogniser's error. Made by `RecoveringRecogniser.open`.

    Args:
        call: The side.
        chain: Whom to ask, in which order, when.
        first: A leg that was opened already, None if the first connect failed.
        settings: Numbers.
    """

    def __init__(self, call: SpeechCall, chain: Chain, first: Leg | None, settings: RecoverySettings) -> None:
        self._call = call
        self._chain = chain
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._opened_s = self._away_since_s = self._loop.time()
        self._clock = SampleClock(call.start_ms, call.sample_rate_hz)
        self._keeper = Keeper(call.sample_rate_hz, settings)
        self._timeline = Timeline(call.start_ms)
        self._gaps = Gaps()
        self._mender = Mender(call, self._keeper, self._clock, settings, self, on_replayed=chain.count_replayed)
        self._cursor = 0
        self._told_covered_ms = call.start_ms
        self._leg: Leg | None = None
        self._closing = asyncio.Event()
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._read = asyncio.Event()
        self._events: asyncio.Queue[SpeechEvent] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(first), name=f"speech-recovery-{call.speaker}")

    # -- the contract -------------------------------------------------------------------------------------------

    async def send(self, pcm: bytes) -> None:
        """Take linear16 mono samples. A source faster than real time waits for a slow recogniser; no other does.

        Raises:
            BadAudio: Half a sample.
        """
        if len(pcm) % BYTES_PER_SAMPLE:
            raise BadAudio("linear16 audio has an even number of bytes", field="pcm")
        if self._closing.is_set() or not pcm:
            return
        while self._leg is not None and self._is_far_behind and self._is_ahead_of_time:
            self._room.clear()
            await self._room.wait()
        await self._keeper.append(pcm)
        leg = self._leg
        position = self._keeper.end - len(pcm) // BYTES_PER_SAMPLE
        if leg is None or not leg.is_live or self._cursor != position:
            self._more.set()  # a replay is under way; it will come to these samples
            return
        self._cursor = self._keeper.end
        try:
            await leg.send(pcm, self._loop.time())
        except Overloaded:
            if self._leg is leg:
                self._cursor = position
                leg.is_live = False
                self._more.set()
        except Exception as error:
            leg.end(error)

    async def finalize(self) -> None:
        """Close the utterance that is open now, where live audio is being heard."""
        if self._leg is not None and self._leg.is_live:
            await self._leg.stream.finalize()

    async def close(self) -> None:
        """No more audio. What is still missing is waited for, within `close_limit_s`, then `Closed` comes."""
        self._closing.set()
        self._more.set()

    async def abandon(self) -> None:
        """Stop at once; nothing follows. Idempotent."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def events(self) -> AsyncIterator[SpeechEvent]:
        """Events; mended speech comes later than what followed it. Ends after `Closed`."""
        while True:
            event = await self._events.get()
            self._read.set()
            yield event
            if isinstance(event, Closed):
                return

    @property
    def unsettled_s(self) -> float:
        """Audio that is kept because it is not recognised yet."""
        return (self._keeper.end - self._keeper.start) / self._call.sample_rate_hz

    @property
    def _is_far_behind(self) -> bool:
        return self._keeper.end - self._cursor > self._settings.ring_s * self._call.sample_rate_hz

    @property
    def _is_ahead_of_time(self) -> bool:
        return self._keeper.end / self._call.sample_rate_hz - (self._loop.time() - self._opened_s) > _AHEAD_S

    # -- legs ---------------------------------------------------------------------------------------------------

    async def _run(self, first: Leg | None) -> None:
        """Own everything: legs and mending until all is said, or, after the last sample, waited for long enough."""
        work = asyncio.create_task(self._work(first), name="speech-legs")
        closing = asyncio.create_task(self._closing.wait(), name="speech-closing")
        error: BaseException | None = None
        try:
            await asyncio.wait((work, closing), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((work,), timeout=self._settings.close_limit_s)
            if work.done() and (error := work.exception()) is not None:
                log.critical("speech recovery failed", exc_info=error)
        finally:
            for task in (work, closing):
                task.cancel()
            await asyncio.gather(work, closing, return_exceptions=True)
            await self._mender.stop()
            if self._leg is not None:
                await self._leg.abandon()
            self._leg = None
            self._closing.set()
            self._room.set()
            self._tell_what_is_missing()
            self._keeper.close()
            self._emit(Closed(error))

    async def _work(self, leg: Leg | None) -> None:
        if leg is None:
            leg = await self._connect("dropped")
        else:
            self._begin(leg, 0)
        while (error := await self._follow(leg)) is not None:
            cause = "stalled" if isinstance(error, Stalled) else "dropped"
            self._leg = None
            self._mender.use(None)
            self._room.set()
            self._away_since_s = self._loop.time()
            self._chain.lost(leg, self._away_since_s)
            log.warning(
                "recogniser stream lost",
                extra={"cause": cause, "recogniser": leg.name, "reason": type(error).__name__},
            )
            await leg.abandon()
            leg = await self._connect(cause)
        # It closed in order: nothing of it is missing any more.
        self._timeline.jump(self._clock.ms_of(self._keeper.end))
        await self._mender.finish()
        self.progressed()

    async def _connect(self, cause: str) -> Leg:
        """Try the chain until a recogniser takes the call."""
        while True:
            attempt = self._chain.next(self._loop.time())
            self._tell_outage(cause, is_hopeless=attempt.at_s == math.inf)
            if attempt.at_s == math.inf:
                await asyncio.Event().wait()  # until the call is over
            await asyncio.sleep(max(0.0, attempt.at_s - self._loop.time()))
            start = self._resume_position(attempt.replay_speed)
            leg = await self._chain.open(attempt, replace(self._call, start_ms=self._clock.ms_of(start)), cause)
            if leg is not None:
                self._begin_again(leg, start)
                return leg

    def _resume_position(self, replay_speed: float) -> int:
        """Where the next leg begins: at the last settled sample, or, if that is too long ago, at a quiet moment."""
        rate_hz, end = self._call.sample_rate_hz, self._keeper.end
        settled = min(end, self._clock.position_of(self._timeline.settled_ms))
        inline = self._settings.inline_limit_s(replay_speed) * rate_hz
        if end - settled <= inline and settled >= self._keeper.start:
            return settled
        since = max(settled, end - int(self._settings.inline_replay_s * rate_hz))
        return max(settled, self._clock.aligned(self._keeper.quietest(since, end)))

    def _begin(self, leg: Leg, start: int) -> None:
        self._leg, self._cursor = leg, start
        self._mender.use(leg.recogniser)

    def _begin_again(self, leg: Leg, start: int) -> None:
        settled = self._clock.position_of(self._timeline.settled_ms)
        end = self._keeper.end
        if start > settled:
            self._mender.add(Hole(settled, start))
            self._timeline.jump(self._clock.ms_of(start))
        self._begin(leg, start)
        self._chain.count_replayed((end - start) / self._call.sample_rate_hz)
        for gap in self._gaps.close(self._clock.ms_of(start if start > settled else end)):
            self._emit(gap)

    async def _follow(self, leg: Leg) -> BaseException | None:
        """Feed and hear a leg until its end; None if it said everything."""
        tasks = (
            asyncio.create_task(self._feed(leg), name="speech-feed"),
            asyncio.create_task(self._hear(leg), name="speech-hear"),
        )
        try:
            return await leg.over
        finally:
            leg.is_live = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self, leg: Leg) -> None:
        """Send what the leg has not heard yet; once it has, `send` does, until the leg falls behind again."""
        try:
            while True:
                # Nothing is awaited between an empty read and `is_live`, so no frame falls between the two feeders.
                pcm = await self._keeper.read(self._cursor, self._call.sample_rate_hz * _CHUNK_MS // 1000)
                if pcm:
                    await self._replay(leg, pcm)
                    continue
                if self._closing.is_set():
                    await leg.close(self._settings.close_limit_s / 3)
                    return
                leg.is_live = True
                self._more.clear()
                await self._more.wait()
                leg.is_live = False
        except Exception as error:
            leg.end(error)

    async def _replay(self, leg: Leg, pcm: bytes) -> None:
        try:
            await leg.send(pcm, self._loop.time())
        except Overloaded:
            if self._is_far_behind and not self._is_ahead_of_time:
                raise
            await asyncio.sleep(self._settings.overload_pause_s)
        else:
            self._cursor += len(pcm) // BYTES_PER_SAMPLE
            self._room.set()

    async def _hear(self, leg: Leg) -> None:
        try:
            async for event in leg.events():
                # Nothing is awaited while an event passes: a leg that ends now must not take it along.
                kept = self._timeline.take(event)
                if kept is not None:
                    self._tell(kept)
                while self._events.qsize() >= MAX_UNREAD_EVENTS:
                    self._read.clear()
                    await self._read.wait()
        except Exception as error:
            log.exception("a recogniser's events could not be read")
            leg.end(error)

    # -- out ----------------------------------------------------------------------------------------------------

    def _tell(self, event: SpeechEvent) -> None:
        match event:
            case Covered():
                self.progressed()
            case EndOfSpeech(at_ms):
                covered_ms = self._told_covered_ms = max(self._told_covered_ms, self._covered_ms)
                self._emit(EndOfSpeech(at_ms, covered_ms))
                self.progressed()
            case _:
                self._emit(event)

    def mended(self, final: Final) -> None:
        """A final from a hole. See `mending.Listener`."""
        self._emit(replace(final, is_backfill=self._gaps.includes(final.start_ms)))

    def progressed(self) -> None:
        """More is settled: forget its audio and tell. See `mending.Listener`."""
        covered_ms = self._covered_ms
        self._keeper.forget(self._clock.position_of(covered_ms))
        if covered_ms > self._told_covered_ms:
            self._told_covered_ms = covered_ms
            self._emit(Covered(covered_ms))
        for gap in self._gaps.mended(covered_ms):
            self._emit(gap)

    def gone(self, from_position: int, to_position: int) -> None:
        """A part of a hole can never be heard again. See `mending.Listener`."""
        for gap in self._gaps.lost(self._clock.ms_of(from_position), self._clock.ms_of(to_position)):
            self._emit(gap)

    @property
    def _covered_ms(self) -> int:
        """Everything before it is recognised, was silence, or is lost for good."""
        holes = self._mender.holes
        settled_ms = self._timeline.settled_ms
        return min(settled_ms, self._clock.ms_of(holes[0].start)) if holes else settled_ms

    def _tell_outage(self, cause: str, *, is_hopeless: bool) -> None:
        now_s = self._loop.time()
        away_s = now_s - self._away_since_s
        if is_hopeless or (self._chain.is_exhausted(now_s) and away_s >= self._settings.give_up_after_s):
            for gap in self._gaps.open(self._timeline.settled_ms, f"recogniser_{cause}"):
                self._emit(gap)

    def _tell_what_is_missing(self) -> None:
        """The call is over: what was not heard by now never will be."""
        end_ms = self._clock.ms_of(self._keeper.end)
        missing = [(self._clock.ms_of(hole.start), self._clock.ms_of(hole.end)) for hole in self._mender.holes]
        if self._timeline.settled_ms < end_ms:
            missing.append((self._timeline.settled_ms, end_ms))
        for from_ms, to_ms in missing:
            for gap in self._gaps.lost(from_ms, to_ms):
                self._emit(gap)

    def _emit(self, event: SpeechEvent) -> None:
        self._events.put_nowait(event)
