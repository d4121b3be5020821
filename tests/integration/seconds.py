"""A recogniser that hears each second of audio as one word, and whether it is whole: what was lost, doubled or shifted
by as little as a sample on its way is heard as such.

one_second(7) ─▶ "second 7", from 7000 to 8000 ms      a second of two values ─▶ "torn"
"""

from __future__ import annotations

import asyncio

import numpy as np

from server.ingest.audio import AudioFormat
from server.speech.contract import Capabilities, Closed, EndOfSpeech, Final, Interim

RATE_HZ = 8000
_STEPS = AudioFormat("mulaw", RATE_HZ, ("customer",)).split(bytes(range(256)))[0]
VALUES = np.unique(_STEPS[_STEPS > 0])
"""Samples that every encoding carries exactly; each second has one of its own."""


def one_second(number: int):
    """`[8000] int16`."""
    return np.full(RATE_HZ, VALUES[number], np.int16)


class Stream:
    def __init__(self, call):
        assert call.sample_rate_hz == RATE_HZ
        self._end_ms = call.start_ms
        self._pcm = bytearray()
        self._events = asyncio.Queue()

    async def send(self, pcm):
        self._pcm += pcm
        if len(self._pcm) >= RATE_HZ and (self._end_ms % 1000 == 0):
            self._events.put_nowait(Interim(self._end_ms, self._end_ms + 500, "second"))
        # A stream that goes on in the midst of a second hears the rest of it first.
        while len(self._pcm) >= 2 * (size := RATE_HZ * (1000 - self._end_ms % 1000) // 1000):
            heard = np.unique(np.frombuffer(bytes(self._pcm[: 2 * size]), np.int16))
            del self._pcm[: 2 * size]
            start_ms, self._end_ms = self._end_ms, self._end_ms + size * 1000 // RATE_HZ
            is_whole = len(heard) == 1 and heard[0] in VALUES
            text = f"second {np.searchsorted(VALUES, heard[0])}" if is_whole else "torn"
            self._events.put_nowait(Final(start_ms, self._end_ms, text))
            self._events.put_nowait(EndOfSpeech(self._end_ms, self._end_ms))

    async def finalize(self):
        pass

    async def close(self):
        self._events.put_nowait(Closed())

    async def events(self):
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, Closed):
                return


class Seconds:
    """Recogniser."""

    capabilities = Capabilities("seconds", interims=True, word_times=False, languages=("en",))

    async def start(self):
        pass

    async def open(self, call):
        return Stream(call)

    async def stop(self):
        pass
