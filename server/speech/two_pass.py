"""Two recognisers at once behind the speech contract: fast interims by one, better finals by another.

    fast ── interims ─────────────────────────────────▶ events
         ── final ─▶ its text as a stable interim ────▶ events, at once: guidance does not wait
                 └─▶ the utterance's audio ─▶ strong ─▶ the final, within `budget_ms`; else the fast one's text

The agent sees each text as early as with the fast one alone, and a better one under the same bubble a moment later.
What follows a final waits for it, so that events stay in audio order. Where the strong one has no time (`pace`), fails,
hears nothing or goes round in circles, the fast one's final leaves at once. Languages that the fast one does not know
are the strong one's alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Protocol

from server.metrics import Metrics
from server.speech.contract import (
    Capabilities,
    Closed,
    Covered,
    EndOfSpeech,
    Final,
    Interim,
    Recogniser,
    SpeechCall,
    SpeechEvent,
    SpeechStream,
    primary_language,
)
from server.speech.frames import Recognised
from server.speech.pace import Pace
from server.speech.recovery.clock import SampleClock
from server.speech.recovery.tape import Tape
from server.speech.text_guards import plausible_text
from server.speech.word_times import spread_words
from server.wire.errors import CuelineError

log = logging.getLogger(__name__)

_MARGIN_MS = 200
"""Before and after the voice of an utterance: weak consonants lie there."""
_KEPT_S = 30.0
_MAX_UNREAD_EVENTS = 1_000
_MIN_CONFIDENCE = 0.2


class StrongRecogniser(Recogniser, Protocol):
    """A recogniser that also takes single stretches of speech: the embedded one."""

    async def recognise(self, pcm: bytes, rate_hz: int, language: str) -> Recognised:
        """See `EmbeddedRecogniser.recognise`."""


@dataclass(frozen=True, slots=True)
class _Revised:
    """A final on its way: what the fast one heard, and where the better text will be."""

    final: Final
    better: asyncio.Task[Final]


class TwoPassStream:
    """One side of one call. Made by `TwoPassRecogniser.open`.

    Args:
        fast: The first pass, opened.
        call: What was opened.
        second: Takes the second look.
    """

    def __init__(self, fast: SpeechStream, call: SpeechCall, second: SecondPass) -> None:
        self._fast = fast
        self._call = call
        self._second = second
        self._clock = SampleClock(call.start_ms, call.sample_rate_hz)
        self._tape = Tape(call.sample_rate_hz)
        self._free_from_ms = call.start_ms
        self._events: asyncio.Queue[SpeechEvent | _Revised] = asyncio.Queue(_MAX_UNREAD_EVENTS)
        self._reader = asyncio.create_task(self._read(), name="two-pass")

    async def send(self, pcm: bytes) -> None:
        """Take linear16 mono samples. Raises as the fast recogniser does; nothing of `pcm` was taken then."""
        await self._fast.send(pcm)
        self._tape.append(pcm)
        self._tape.forget(self._tape.end - int(_KEPT_S * self._call.sample_rate_hz))

    async def finalize(self) -> None:
        """Close the utterance that is open now."""
        await self._fast.finalize()

    async def close(self) -> None:
        """No more audio. Remaining finals still arrive, then `Closed`."""
        await self._fast.close()

    async def abandon(self) -> None:
        """Let go at once."""
        await self._fast.abandon()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        while not self._events.empty():
            if isinstance(item := self._events.get_nowait(), _Revised):
                item.better.cancel()
        self._events.put_nowait(Closed())

    async def events(self) -> AsyncIterator[SpeechEvent]:
        """Events in audio order; ends after `Closed`. One reader."""
        while True:
            item = await self._events.get()
            event = await item.better if isinstance(item, _Revised) else item
            yield event
            if isinstance(event, Closed):
                return

    async def _read(self) -> None:
        try:
            async for event in self._fast.events():
                if isinstance(event, Final):
                    await self._on_final(event)
                else:
                    await self._events.put(event)
                if isinstance(event, Covered | EndOfSpeech):
                    self._tape.forget(self._clock.position_of(event.covered_ms - _MARGIN_MS))
        except Exception as error:  # whoever reads the events must not wait for ever
            log.exception("the fast recogniser's events could not be read")
            await self._events.put(Closed(error))

    async def _on_final(self, final: Final) -> None:
        from_ms = max(self._free_from_ms, final.start_ms - _MARGIN_MS)
        self._free_from_ms = final.end_ms
        position = max(self._tape.start, self._clock.position_of(from_ms))
        pcm = self._tape.read(position, self._clock.position_of(final.end_ms + _MARGIN_MS) - position)
        looking = self._second.look(pcm, final, self._call) if final.text else None
        if looking is None:
            await self._events.put(final)
            return
        interim = Interim(
            final.start_ms, final.end_ms, final.text, final.words, final.confidence, final.language, is_stable=True
        )
        await self._events.put(interim)
        await self._events.put(_Revised(final, looking))


class SecondPass:
    """Second looks of all streams of a process.

    Args:
        strong: Takes them.
        pace: Admits them.
        budget_s: Longest that a final waits.
        metrics: Counts what came of them.
    """

    def __init__(self, strong: StrongRecogniser, pace: Pace, budget_s: float, metrics: Metrics) -> None:
        self._strong = strong
        self._pace = pace
        self._budget_s = budget_s
        self._count = metrics.asr_second_pass
        self._asked: set[asyncio.Task[Recognised]] = set()

    def look(self, pcm: bytes, final: Final, call: SpeechCall) -> asyncio.Task[Final] | None:
        """Ask for a better text of a final; None if there is no time for it now. The task never fails."""
        length_s = len(pcm) / 2 / call.sample_rate_hz
        if not self._pace.ask(length_s, asyncio.get_running_loop().time()):
            self._count.labels("skipped").inc()
            return None
        asking = asyncio.create_task(
            self._strong.recognise(pcm, call.sample_rate_hz, primary_language(final.language)), name="second-look"
        )
        self._asked.add(asking)
        asking.add_done_callback(lambda done: self._done(done, length_s))
        return asyncio.create_task(self._better(asking, final), name="second-pass")

    async def stop(self) -> None:
        """Forget what is asked."""
        asked = list(self._asked)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    async def _better(self, asking: asyncio.Task[Recognised], final: Final) -> Final:
        # A late answer is waited for no longer, but not cancelled: what it took is worth knowing.
        await asyncio.wait([asking], timeout=self._budget_s)
        if not asking.done():
            return self._told("late", final)
        if asking.cancelled() or asking.exception() is not None or (decoded := asking.result().decoded) is None:
            return self._told("failed", final)
        text = plausible_text(
            decoded.text,
            confidence=decoded.confidence,
            voiced_ms=final.end_ms - final.start_ms,
            is_capped=decoded.is_capped,
            min_confidence=_MIN_CONFIDENCE,
        )
        if not text or text != decoded.text:  # nothing, or what nobody says
            return self._told("kept", final)
        voiced = [(word.start_ms, word.end_ms) for word in final.words] or [(final.start_ms, final.end_ms)]
        words = spread_words(text, voiced, decoded.confidence)
        better = replace(final, text=text, words=words, confidence=round(decoded.confidence, 3))
        return self._told("agreed" if text == final.text else "revised", better)

    def _told(self, result: str, final: Final) -> Final:
        self._count.labels(result).inc()
        return final

    def _done(self, asking: asyncio.Task[Recognised], length_s: float) -> None:
        self._asked.discard(asking)
        if asking.cancelled():
            self._pace.failed(length_s)
        elif (error := asking.exception()) is not None:
            self._pace.failed(length_s)
            if not isinstance(error, CuelineError):
                log.error("a second look failed in a way it should not", exc_info=error)
        else:
            self._pace.answered(length_s, asking.result().took_s)


class TwoPassRecogniser:
    """A fast recogniser whose finals a strong one revises.

    Args:
        fast: Interims, and finals where there is no time.
        strong: Finals, and languages that the fast one does not know.
        workers: Decodes of the strong one side by side.
        budget_s: Longest that a final waits for the strong one.
        metrics: Counts.
    """

    def __init__(
        self, fast: Recogniser, strong: StrongRecogniser, workers: int, budget_s: float, metrics: Metrics
    ) -> None:
        self._fast = fast
        self._strong = strong
        self._second = SecondPass(strong, Pace(workers, budget_s), budget_s, metrics)

    @property
    def capabilities(self) -> Capabilities:
        """The fast one's, with the languages of both."""
        languages = dict.fromkeys((*self._fast.capabilities.languages, *self._strong.capabilities.languages))
        return replace(self._fast.capabilities, languages=tuple(languages))

    async def start(self) -> None:
        """Start both.

        Raises:
            ConfigError: One of them is configured wrongly.
        """
        await self._fast.start()
        try:
            await self._strong.start()
        except BaseException:
            await self._fast.stop()
            raise

    async def open(self, call: SpeechCall) -> SpeechStream:
        """Open a stream. Raises as the recogniser of its language does."""
        if primary_language(call.language) in self._fast.capabilities.languages:
            return TwoPassStream(await self._fast.open(call), call, self._second)
        return await self._strong.open(call)

    async def stop(self) -> None:
        """End all streams of both."""
        await self._second.stop()
        await asyncio.gather(self._fast.stop(), self._strong.stop())
