"""One timer for a time that is put off again and again: a call's next plan, the end of a wait for its source."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TICK_S = 0.001
"""What a loop's timers count in; one may be this much too early."""


class Alarm:
    """Calls back at the time it was last set to, and does not ring for the same time again before it was stopped.

    The timer stays where it is when the time is put off, as it is at nearly every word: it looks again then. To set one
    and close it each time costs the loop more than what it is for.

    Args:
        loop: Whose clock it is.
        ring: Called then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._at_s: float | None = None
        self._has_rung = False
        self._looks_s = 0.0  # the timer's time: a handle of uvloop that is due at once knows none
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at_s: float | None) -> None:
        """Ring at a monotonic time; None: not at all."""
        if at_s == self._at_s:
            return
        self._at_s, self._has_rung = at_s, False
        if at_s is not None and (self._timer is None or at_s < self._looks_s):
            self._start(at_s)

    def stop(self) -> None:
        """Do not ring any more."""
        self._at_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_s = at_s
        self._timer = self._loop.call_at(at_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._at_s is None or self._has_rung:
            return
        if self._at_s > self._loop.time() + TICK_S:
            self._start(self._at_s)
        else:
            self._has_rung = True
            self._ring()
