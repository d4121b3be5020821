"""One audio source of a call: its recogniser streams, its clock, and what it may forget.

    frames ─split─▶ side(customer) ─▶ recogniser stream ─▶ events ─▶ call
                 └▶ side(agent)    ─▶ …

A source outlives its socket: when the socket drops, the streams stay open for a grace period, so that a sender which
comes back goes on in the middle of a word. What a recogniser loses is recovered behind the speech contract
(`server.speech.recovery`); what cannot be becomes a gap that is told, never silence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from server.ingest.arrivals import Arrivals
from server.ingest.audio import AudioFormat, SampleArray
from server.ingest.contract import Source
from server.speech.contract import (
    Closed,
    Covered,
    EndOfSpeech,
    Final,
    Interim,
    Recogniser,
    SpeechCall,
    SpeechEvent,
    SpeechGap,
    SpeechStarted,
    SpeechStream,
)
from server.wire.clock import Stamps, wall_ms
from server.wire.errors import CuelineError
from server.wire.ids import ConversationId, Speaker, TenantId

log = logging.getLogger(__name__)

AHEAD_MS = 500
"""A switch sends in bursts of some frames; more than this ahead of real time is a flood, or a recording."""


class _Side:
    """One role's recogniser stream. The recogniser recovers by itself; what it cannot recover it tells as a gap."""

    def __init__(self, speaker: Speaker, source: AudioSource) -> None:
        self.speaker = speaker
        self.covered_ms = source.arrivals.end_ms
        self._source = source
        self._stream: SpeechStream | None = None
        self._pump: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open a stream that starts at the source's clock. Raises `Overloaded` when there is no capacity."""
        start_ms = int(self._source.arrivals.end_ms)
        self._stream = await self._source.recogniser.open(self._source.speech_call(self.speaker, start_ms))
        self._pump = asyncio.create_task(self._forward(self._stream), name=f"speech-{self.speaker}")

    async def send(self, samples: SampleArray) -> None:
        if self._stream is not None:
            await self._stream.send(samples.tobytes())

    async def finalize(self) -> None:
        """Close the utterance that is open."""
        if self._stream is not None:
            await self._stream.finalize()

    async def close(self) -> None:
        """No more audio; returns after the last event was handed on."""
        if self._stream is not None:
            await self._stream.close()
        if self._pump is not None:
            await self._pump
        self._stream = self._pump = None

    async def _forward(self, stream: SpeechStream) -> None:
        async for event in stream.events():
            received_ms = wall_ms()
            match event:
                case Covered(covered_ms):
                    self.covered_ms = max(self.covered_ms, covered_ms)
                    self._source.covered()
                case Closed(error):
                    if error is not None:
                        log.error("speech stream failed", extra={"speaker": self.speaker}, exc_info=error)
                        gap = SpeechGap(int(self.covered_ms), None, "recogniser_lost", "open")
                        await self._source.call.on_speech(self.speaker, gap, Stamps())
                    return
                case _:
                    stamps = self._source.arrivals.stamps(_end_ms(event), received_ms)
                    await self._source.call.on_speech(self.speaker, event, stamps)
                    if isinstance(event, EndOfSpeech):
                        self.covered_ms = max(self.covered_ms, event.covered_ms)
                        self._source.covered()


def _end_ms(event: SpeechEvent) -> int:
    """Audio time that an event speaks of."""
    match event:
        case Interim() | Final():
            return event.end_ms
        case SpeechStarted() | EndOfSpeech():
            return event.at_ms
        case SpeechGap():
            return event.from_ms
        case Covered(covered_ms):
            return covered_ms
    return 0


class AudioSource:
    """Audio of one or two roles on one audio clock.

    Args:
        tenant_id: Owner.
        conversation_id: The call.
        language: Expected language.
        audio_format: What `start` announced.
        call: Where what was heard goes.
        recogniser: Opens one stream a role.
        start_ms: Audio time of its first sample, if it joins a call that has begun.
        lost_from_ms: From there to `start_ms` it has nothing any more; what is not stored of it is a gap.
        is_live: It has nothing of before: it goes on from this moment of the call.
    """

    def __init__(
        self,
        tenant_id: TenantId,
        conversation_id: ConversationId,
        language: str,
        audio_format: AudioFormat,
        call: Source,
        recogniser: Recogniser,
        *,
        start_ms: int = 0,
        lost_from_ms: int | None = None,
        is_live: bool = False,
    ) -> None:
        self.audio_format = audio_format
        self.call = call
        self.recogniser = recogniser
        self.arrivals = Arrivals(max(call.now_ms() if is_live else call.resume_ms(), start_ms))
        self.on_stored: Callable[[int], Awaitable[None]] | None = None
        self._tenant_id = tenant_id
        self._conversation_id = conversation_id
        self._language = language
        self._sides = tuple(_Side(role, self) for role in audio_format.roles)
        # What was stored although nobody told its sender so is not missing.
        self._missing_ms = (start_ms if lost_from_ms is None else max(lost_from_ms, call.resume_ms()), start_ms)
        self._covered = asyncio.Event()
        self._began: tuple[float, float] | None = None
        self._acks: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the streams. Raises `Overloaded` when the recogniser has no capacity."""
        opened = await asyncio.gather(*(side.open() for side in self._sides), return_exceptions=True)
        for failure in opened:
            if isinstance(failure, BaseException):
                raise failure
        self._acks = asyncio.create_task(self._acknowledge(), name="audio-acks")
        from_ms, to_ms = self._missing_ms
        for side in self._sides if from_ms < to_ms else ():
            await self.call.on_speech(side.speaker, SpeechGap(from_ms, to_ms, "audio_missing", "lost"), Stamps())

    def speech_call(self, speaker: Speaker, start_ms: int) -> SpeechCall:
        """What the recogniser is told of one side."""
        return SpeechCall(
            tenant_id=self._tenant_id,
            conversation_id=self._conversation_id,
            speaker=speaker,
            sample_rate_hz=self.audio_format.sample_rate_hz,
            language=self._language,
            start_ms=start_ms,
            keyterms=self.call.keyterms,
        )

    async def feed(self, frame: bytes, arrived_ms: float) -> None:
        """Take one frame.

        Raises:
            BadAudio: The frame does not fit the format; nothing of it was taken.
        """
        channels = self.audio_format.split(frame)
        duration_ms = 1000 * len(channels[0]) / self.audio_format.sample_rate_hz
        for side, samples in zip(self._sides, channels, strict=True):
            await side.send(samples)
        self.arrivals.add(duration_ms, arrived_ms, wall_ms())
        await self._give_way()

    async def _give_way(self) -> None:
        """Let others have their turn after each frame of a source that sends faster than anyone speaks.

        What has arrived already is read without waiting: a flood would be worked for as long as it lasts.
        """
        now_s = asyncio.get_running_loop().time()
        if self._began is None:
            self._began = now_s, self.arrivals.end_ms
        began_s, began_ms = self._began
        if self.arrivals.end_ms - began_ms > (now_s - began_s) * 1000 + AHEAD_MS:
            await asyncio.sleep(0)

    async def finalize(self) -> None:
        """The audio pauses: what was said last is not kept open until it goes on."""
        for side in self._sides:
            await side.finalize()

    def covered(self) -> None:
        """A side got further; the acknowledgement task looks again."""
        self._covered.set()

    async def close(self) -> None:
        """No more audio; returns after all remaining events were handed to the call."""
        await asyncio.gather(*(side.close() for side in self._sides))
        if self._acks is not None:
            self._acks.cancel()
            await asyncio.gather(self._acks, return_exceptions=True)
            self._acks = None

    async def _acknowledge(self) -> None:
        """Tell the sender how far its audio is stored; the newest state wins, so slow disks never queue acks."""
        told_ms = -1
        while True:
            await self._covered.wait()
            self._covered.clear()
            covered_ms = int(min(side.covered_ms for side in self._sides))
            if covered_ms > told_ms and self.on_stored is not None:
                try:
                    await self.call.stored(covered_ms)
                except CuelineError:
                    continue  # not safe, so not told; the next audio that is covered asks again
                await self.on_stored(covered_ms)
                told_ms = covered_ms
