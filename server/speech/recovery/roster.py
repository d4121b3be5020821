"""Which recogniser to try next, and when. Pure: takes the time and draws, gives decisions.

    five attempts each, the first at once, then full jitter:  random(0, min(cap, base * 2^n))
    its attempts used up, or refused, or three short lives in a row  ─▶  it rests, the next one is asked
    all of them rest  ─▶  the call is not given up: they are tried in turn, at the longest interval

Source: OPERATIONS d3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from server.speech.recovery.settings import RecoverySettings


@dataclass(slots=True)
class _Entry:
    """One recogniser as this stream knows it."""

    attempts: int = 0
    first_attempt_s: float = 0.0
    opened_s: float = 0.0
    quick_failures: int = 0
    rests_until_s: float = -math.inf
    last_tried_s: float = -math.inf
    is_refused: bool = False


class Roster:
    """Recognisers in order of preference, for one stream.

    Args:
        size: How many there are.
        settings: Numbers.
        draw: Uniform from 0 to 1; `random.random`, or a script in tests.
    """

    def __init__(self, size: int, settings: RecoverySettings, draw: Callable[[], float]) -> None:
        self._entries = [_Entry() for _ in range(size)]
        self._settings = settings
        self._draw = draw

    def is_exhausted(self, now_s: float) -> bool:
        """Every one has been tried in vain: the agent should know."""
        return all(entry.is_refused or entry.rests_until_s > now_s for entry in self._entries)

    def next(self, now_s: float) -> tuple[int, float]:
        """Index of the one to try next, and the time at which to try; infinity if all of them refused for good."""
        settings = self._settings
        for index, entry in enumerate(self._entries):
            if not entry.is_refused and entry.rests_until_s <= now_s:
                if entry.attempts == 0:
                    return index, now_s
                reach_s = min(settings.backoff_cap_s, settings.backoff_base_s * 2**entry.attempts)
                return index, now_s + self._draw() * reach_s
        willing = [index for index, entry in enumerate(self._entries) if not entry.is_refused]
        if not willing:
            return 0, math.inf
        longest_waiting = min(willing, key=lambda index: self._entries[index].last_tried_s)
        return longest_waiting, now_s + self._draw() * settings.backoff_cap_s

    def refuse(self, index: int) -> None:
        """It will not take this call, whenever it is asked (bad key, unknown language)."""
        self._entries[index].is_refused = True

    def failed(self, index: int, now_s: float) -> None:
        """A connect failed for a reason that may pass."""
        entry = self._entries[index]
        if entry.attempts == 0:
            entry.first_attempt_s = now_s
        entry.attempts += 1
        entry.last_tried_s = now_s
        used_up = entry.attempts >= self._settings.max_attempts
        if used_up or now_s - entry.first_attempt_s >= self._settings.give_up_after_s:
            self._rest(entry, now_s)

    def opened(self, index: int, now_s: float) -> None:
        """A connect worked; whether it is worth anything shows when it has lived for a while."""
        entry = self._entries[index]
        entry.opened_s = entry.last_tried_s = now_s
        entry.attempts = 0

    def lost(self, index: int, now_s: float) -> None:
        """An open connection ended by itself."""
        entry = self._entries[index]
        if now_s - entry.opened_s >= self._settings.young_s:
            entry.quick_failures = 0
            return
        entry.quick_failures += 1
        entry.attempts, entry.first_attempt_s = entry.quick_failures, now_s
        if entry.quick_failures >= self._settings.max_quick_failures:
            self._rest(entry, now_s)

    def _rest(self, entry: _Entry, now_s: float) -> None:
        entry.rests_until_s = now_s + self._settings.rest_s
        entry.attempts = entry.quick_failures = 0
