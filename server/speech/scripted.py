"""A recogniser that says what a script says, when it says so. For tests, on any clock.

    script: [Heard(after_ms, event), …] per speaker;  send(pcm) ─▶ audio time ─▶ events whose time has come

It implements the whole contract: the events of a stream come as its audio arrives, a stated delay later, so that a
call of minutes runs in milliseconds on a virtual clock and the same way each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from server.speech.contract import (
    Capabilities,
    Closed,
    EndOfSpeech,
    Final,
    Interim,
    SpeechCall,
    SpeechEvent,
    SpeechStarted,
    SpeechStream,
)
from server.wire.errors import Overloaded
from server.wire.ids import Speaker

_BYTES_PER_SAMPLE = 2


@dataclass(frozen=True, slots=True)
class Heard:
    """An event, and the audio time that must have been sent before it comes.

    Attributes:
        at_ms: On the call's audio clock.
        event: Handed out as it is. `Closed` with an error ends the stream, as a lost vendor does.
    """

    at_ms: int
    event: SpeechEvent


Script = Mapping[Speaker, Sequence[Heard]]
"""What is heard of each speaker, in audio order."""


def spoken(
    text: str, start_ms: int, end_ms: int, *, endpoint_ms: int = 240, interim_every_ms: int = 320
) -> list[Heard]:
    """The events of one utterance as a good recogniser gives them: start, growing interims, final, end.

    Args:
        text: What is said.
        start_ms: Audio time of its first sample.
        end_ms: Audio time after its last sample.
        endpoint_ms: Silence after which the final comes.
        interim_every_ms: Time between interims.
    """
    words = text.split()
    heard = [Heard(start_ms + 100, SpeechStarted(start_ms))]
    for now_ms in range(start_ms + interim_every_ms, end_ms, interim_every_ms):
        num_words = max(1, len(words) * (now_ms - start_ms) // (end_ms - start_ms))
        heard.append(Heard(now_ms, Interim(start_ms, now_ms, " ".join(words[:num_words]))))
    closed_ms = end_ms + endpoint_ms
    heard.append(Heard(closed_ms, Final(start_ms, end_ms, text)))
    heard.append(Heard(closed_ms, EndOfSpeech(end_ms, closed_ms)))
    return heard


class ScriptedStream:
    """One scripted stream. Made by `ScriptedRecogniser.open`."""

    def __init__(
        self, call: SpeechCall, script: Sequence[Heard], delay_s: float, overloaded_from_ms: int | None
    ) -> None:
        self._call = call
        # After a resume only what lies ahead is heard.
        self._script = [heard for heard in script if heard.at_ms > call.start_ms]
        self._delay_s = delay_s
        self._overloaded_from_ms = overloaded_from_ms
        self._sent_bytes = 0
        self._num_told = 0
        self._is_closed = False
        self._events: asyncio.Queue[tuple[float, SpeechEvent]] = asyncio.Queue()

    @property
    def now_ms(self) -> int:
        """Audio time after the last sample sent."""
        sent_ms = self._sent_bytes * 1000 // (self._call.sample_rate_hz * _BYTES_PER_SAMPLE)
        return self._call.start_ms + sent_ms

    async def send(self, pcm: bytes) -> None:
        """Take samples and release the events whose audio time they reach.

        Raises:
            Overloaded: From the scripted time on.
        """
        if self._overloaded_from_ms is not None and self.now_ms >= self._overloaded_from_ms:
            raise Overloaded("scripted")
        self._sent_bytes += len(pcm)
        self._tell(self.now_ms)

    async def finalize(self) -> None:
        """Release the rest of the utterance that is open, as at an end of speech."""
        rest = self._script[self._num_told :]
        last = self._script[self._num_told - 1].event if self._num_told else None
        if isinstance(last, SpeechStarted | Interim | Final):
            ends = [heard.at_ms for heard in rest if isinstance(heard.event, EndOfSpeech)]
            if ends:
                self._tell(ends[0])

    async def close(self) -> None:
        """Release what is open, then `Closed`."""
        if not self._is_closed:
            await self.finalize()
            self._put(Closed())

    async def abandon(self) -> None:
        """Nothing but `Closed` follows."""
        self._put(Closed())

    async def events(self) -> AsyncIterator[SpeechEvent]:
        """Events, each `delay_s` after the audio that caused it."""
        loop = asyncio.get_running_loop()
        while True:
            due_s, event = await self._events.get()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            yield event
            if isinstance(event, Closed):
                return

    def _tell(self, until_ms: int) -> None:
        while self._num_told < len(self._script) and self._script[self._num_told].at_ms <= until_ms:
            self._num_told += 1
            self._put(self._script[self._num_told - 1].event)

    def _put(self, event: SpeechEvent) -> None:
        if not self._is_closed:
            self._is_closed = isinstance(event, Closed)
            self._events.put_nowait((asyncio.get_running_loop().time() + self._delay_s, event))


class ScriptedRecogniser:
    """Plays one script to every call.

    Args:
        script: What is heard of each speaker.
        delay_s: From the audio to its event, on the loop's clock.
        max_streams: `open` refuses more.
        overloaded_from_ms: `send` refuses audio from this time on; None: never.
    """

    def __init__(
        self, script: Script, *, delay_s: float = 0.0, max_streams: int = 1_000, overloaded_from_ms: int | None = None
    ) -> None:
        self._script = script
        self._delay_s = delay_s
        self._max_streams = max_streams
        self._overloaded_from_ms = overloaded_from_ms
        self.streams: list[ScriptedStream] = []

    @property
    def capabilities(self) -> Capabilities:
        """All that the contract knows."""
        return Capabilities("scripted", interims=True, word_times=False, languages=("en",))

    async def start(self) -> None:
        """Nothing to load."""

    async def open(self, call: SpeechCall) -> SpeechStream:
        """Open a stream that hears the script of the call's speaker, from `start_ms` on.

        Raises:
            Overloaded: `max_streams` were opened.
        """
        if len(self.streams) >= self._max_streams:
            raise Overloaded(f"{self._max_streams} audio channels are open")
        stream = ScriptedStream(call, self._script.get(call.speaker, ()), self._delay_s, self._overloaded_from_ms)
        self.streams.append(stream)
        return stream

    async def stop(self) -> None:
        """End all streams."""
        for stream in self.streams:
            await stream.close()
