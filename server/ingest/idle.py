"""How long a source may say nothing, with one timer for as many messages as come.

`asyncio.timeout` around each wait sets a timer and closes it again, for every message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

TICK_S = 0.001
"""What a loop's timers count in; one may be this much too early."""

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
        self._looks_s = 0.0  # the timer's time: a handle of uvloop that is due at once knows none
        self._timer: asyncio.TimerHandle | None = None
        self._until_s: float | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; an error that is not of the limit goes on as it is."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise Silent from None

    async def wait(self, coming: Coroutine[Any, Any, T], limit_s: float) -> T:
        """Wait for a message, so long."""
        self._until_s = until_s = self._loop.time() + limit_s
        if self._timer is None or until_s < self._looks_s:
            self._set(until_s)
        try:
            return await coming
        finally:
            self._until_s = None
            if self._timeout.when() is not None and not self._timeout.expired():
                self._timeout.reschedule(None)  # it came as the limit was about to strike: its work is not cut short

    def _set(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_s = at_s
        self._timer = self._loop.call_at(at_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._until_s is None:
            return  # nobody waits; the next wait sets it
        if self._until_s <= self._loop.time() + TICK_S:
            self._timeout.reschedule(self._loop.time())
        else:
            self._set(self._until_s)
