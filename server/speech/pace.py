"""Whether a second look at an utterance can be had in time. Pure: takes the time, gives decisions.

    cost = length x slope, the slope learned from what decodes took;  all that is asked + this one ≤ budget  ─▶  ask

When cores run short decodes take longer, the slope rises, and long utterances are no longer asked for, then short ones.
Now and then one is asked all the same: otherwise nobody would notice that the machine is free again.
"""

from __future__ import annotations

_FIRST_SLOPE = 0.15
"""Time of a decode over length of its audio: Whisper base, int8, on one busy core."""
_WEIGHT = 0.3
"""Of the newest decode in the slope."""
_EXTRA_S = 2.0
"""What every decode costs beside its own length: it is padded by so much."""
_PROBE_EVERY_S = 15.0


class Pace:
    """Admits second looks of all streams.

    Args:
        workers: Decodes side by side.
        budget_s: Longest that a result may take.
    """

    def __init__(self, workers: int, budget_s: float) -> None:
        self._workers = workers
        self._budget_s = budget_s
        self._slope = _FIRST_SLOPE
        self._asked_s: list[float] = []
        self._last_asked_s = float("-inf")

    def ask(self, length_s: float, now_s: float) -> bool:
        """Whether to ask for so much audio; if so, `answered` or `failed` has to follow."""
        before_s = sum(self._asked_s) / self._workers
        is_in_time = (before_s + length_s + _EXTRA_S) * self._slope <= self._budget_s
        if not is_in_time and (self._asked_s or now_s - self._last_asked_s < _PROBE_EVERY_S):
            return False
        self._asked_s.append(length_s + _EXTRA_S)
        self._last_asked_s = now_s
        return True

    def answered(self, length_s: float, took_s: float) -> None:
        """One is done, whether or not anybody still waited for it."""
        self.failed(length_s)
        self._slope += _WEIGHT * (took_s / (length_s + _EXTRA_S) - self._slope)

    def failed(self, length_s: float) -> None:
        """One will not be done."""
        self._asked_s.remove(length_s + _EXTRA_S)
