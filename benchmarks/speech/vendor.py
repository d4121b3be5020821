"""The speech server in a process of its own, with a recogniser that only counts.

    python -m benchmarks.speech.vendor    prints its address; `samples` on standard input prints how many came

Every two seconds of audio are answered by a final.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator

import uvloop

from server.speech.contract import Capabilities, Closed, EndOfSpeech, Final, SpeechCall, SpeechEvent
from server.speech_server.server import SpeechServer

_ANSWER_EVERY_MS = 2_000
"""A final for each channel so often; a person who talks brings as many interims and finals together."""


class CountingRecogniser:
    """Counts samples."""

    capabilities = Capabilities("counting", interims=True, word_times=False, languages=("en",))

    def __init__(self) -> None:
        self.samples = 0

    async def open(self, call: SpeechCall) -> CountingStream:
        return CountingStream(call, self)


class CountingStream:
    """One channel."""

    def __init__(self, call: SpeechCall, counter: CountingRecogniser) -> None:
        self._rate_hz = call.sample_rate_hz
        self._counter = counter
        self._samples = 0
        # Not all calls pause at the same instant.
        self._answered_ms = -random.randrange(_ANSWER_EVERY_MS)
        self._events: asyncio.Queue[SpeechEvent] = asyncio.Queue()

    async def send(self, pcm: bytes) -> None:
        self._counter.samples += len(pcm) // 2
        self._samples += len(pcm) // 2
        now_ms = self._samples * 1000 // self._rate_hz
        if now_ms - self._answered_ms >= _ANSWER_EVERY_MS:
            start_ms, self._answered_ms = max(0, self._answered_ms), now_ms
            self._events.put_nowait(Final(start_ms, now_ms, f"it has been {now_ms} milliseconds by now"))
            self._events.put_nowait(EndOfSpeech(now_ms, now_ms))

    async def finalize(self) -> None:
        pass

    async def close(self) -> None:
        self._events.put_nowait(Closed())

    async def abandon(self) -> None:
        self._events.put_nowait(Closed())

    async def events(self) -> AsyncIterator[SpeechEvent]:
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, Closed):
                return


async def main() -> None:
    recogniser = CountingRecogniser()
    server = SpeechServer(recogniser)  # type: ignore[arg-type]
    await server.start("127.0.0.1", 0)
    print(server.url, flush=True)
    while (await asyncio.to_thread(sys.stdin.readline)).strip() == "samples":
        print(recogniser.samples, flush=True)
        recogniser.samples = 0
    await server.stop()


if __name__ == "__main__":
    uvloop.run(main())
