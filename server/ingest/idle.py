"""How long a source may say nothing, with one timer for as many messages as come.

`asyncio.timeout` around each wait sets a timer and closes it again, for every message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from server.alarm import Alarm
from server.ingest.websocket import CLOSE_TRY_AGAIN, Disconnected, Socket
from server.wire.errors import BadMessage

T = TypeVar("T")


class Silent(Exception):
    """Nothing came within the limit."""


class IdleLimit:
    """Around the loop that waits for messages; what is done between them is not limited.

    Leaving it raises `Silent` where a wait took too long.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._alarm = Alarm(self._loop, self._strike)

    async def __aenter__(self) -> Self:
        """Begin."""
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; an error that is not of the limit goes on as it is."""
        self._alarm.stop()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise Silent from None

    async def wait(self, coming: Coroutine[Any, Any, T], limit_s: float) -> T:
        """Wait for a message, so long."""
        self._alarm.set(self._loop.time() + limit_s)
        try:
            return await coming
        finally:
            self._alarm.set(None)
            if self._timeout.when() is not None and not self._timeout.expired():
                self._timeout.reschedule(None)  # it came as the limit was about to strike: its work is not cut short

    def _strike(self) -> None:
        self._timeout.reschedule(self._loop.time())


@asynccontextmanager
async def send_away_when_idle(socket: Socket) -> AsyncIterator[IdleLimit]:
    """Tell a source that is silent for too long so, and that it may come back.

    Raises:
        Disconnected: It was.
    """
    try:
        async with IdleLimit() as idle:
            yield idle
    except Silent:
        await socket.send_error(BadMessage("nothing came within the idle limit"))
        await socket.close(CLOSE_TRY_AGAIN, "idle")
        raise Disconnected from None
