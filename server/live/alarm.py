"""One timer of a call, set anew as its policy's plans change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls back at the time it was last set to, and does not ring for the same time again before it was stopped.

    Args:
        loop: Whose clock it is.
        ring: Called then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._at_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at_s: float | None) -> None:
        """Ring at a monotonic time; None: not at all."""
        if at_s == self._at_s:
            return
        self.stop()
        self._at_s = at_s
        if at_s is not None:
            self._timer = self._loop.call_at(at_s, self._rang)

    def stop(self) -> None:
        """Do not ring any more."""
        self._at_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rang(self) -> None:
        self._timer = None
        self._ring()
