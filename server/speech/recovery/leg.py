"""One recogniser stream from its opening to its end, watched."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from server.speech.contract import Closed, Recogniser, SpeechEvent, SpeechStream
from server.speech.recovery.watchdog import StallWatch
from server.wire.errors import Unavailable


class Stalled(Unavailable):
    """Speech was sent and nothing came back."""


class Leg:
    """What carries one side of a call for a while.

    Args:
        recogniser: Whose stream it is.
        index: Its place in the chain.
        stream: Opened.
        rate_hz: Samples a second.
    """

    def __init__(self, recogniser: Recogniser, index: int, stream: SpeechStream, rate_hz: int) -> None:
        self.recogniser = recogniser
        self.index = index
        self.stream = stream
        self.is_live = False
        """It has heard everything so far: the next frame may go to it directly."""
        self._is_closing = False
        self._loop = asyncio.get_running_loop()
        self._watch = StallWatch(rate_hz, recogniser.capabilities.stall_after_s, self._loop.time())
        self._timer: asyncio.TimerHandle | None = None
        self.over: asyncio.Future[BaseException | None] = self._loop.create_future()

    @property
    def name(self) -> str:
        """Of its recogniser, for logs and metrics."""
        return self.recogniser.capabilities.name

    async def send(self, pcm: bytes, now_s: float) -> None:
        """Pass samples on; ends the leg when it does not answer any more.

        Raises:
            CuelineError: As the stream does.
        """
        await self.stream.send(pcm)
        if self._watch.sent(pcm, now_s):
            self.end(Stalled("speech was sent and nothing came back"))

    async def close(self, limit_s: float) -> None:
        """No more audio; the leg ends with its last word, or as stalled after a while."""
        self._is_closing = True
        self._timer = self._loop.call_later(limit_s, self.end, Stalled("the last words did not come"))
        await self.stream.close()

    async def events(self) -> AsyncIterator[SpeechEvent]:
        """What it says, without `Closed`; that ends the leg."""
        async for event in self.stream.events():
            self._watch.received()
            if isinstance(event, Closed):
                self.end(event.error or (None if self._is_closing else Unavailable("it ended by itself")))
                return
            yield event
        self.end(Unavailable("its events ended"))

    def end(self, error: BaseException | None) -> None:
        """It is of no use any more; None: it said everything. The first word counts."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.over.done():
            self.over.set_result(error)

    async def abandon(self) -> None:
        """Let go of the stream, whatever state it is in."""
        self.end(None)
        with contextlib.suppress(Exception):
            await self.stream.abandon()
