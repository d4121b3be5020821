"""How each model version is doing, over the last minute: rows, failures, time. Pure, given `now_s`.

batch, failed ──▶ seconds of a ring ──view──▶ rows, failed share, time against another version's cost
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from inference.cost import CostModel
from inference.row import Lane

WINDOW_S = 60


@dataclass(slots=True)
class _Second:
    """Sums of one second."""

    at_s: int
    rows: int = 0
    failed: int = 0
    batches: int = 0
    padded_tokens: int = 0
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class View:
    """Sums of the window.

    Attributes:
        rows: Rows computed.
        failed: Rows that failed.
        failed_in_row: Rows that failed since the last one that did not.
        batches: Model runs.
        padded_tokens: Tokens they computed.
        took_s: Time they took.
    """

    rows: int = 0
    failed: int = 0
    failed_in_row: int = 0
    batches: int = 0
    padded_tokens: int = 0
    took_s: float = 0.0

    @property
    def failed_ratio(self) -> float:
        """Share of the rows that failed."""
        return self.failed / (self.rows + self.failed) if self.failed else 0.0

    def slowness(self, cost: CostModel) -> float:
        """Time taken over the time that another version would have taken for the same batches; 1 where unknown."""
        # Its cost is a line, so the sum over batches needs no single one of them.
        expected_s = cost.a_s * self.padded_tokens + cost.b_s * self.batches
        return self.took_s / expected_s if expected_s > 0.0 and self.batches else 1.0


class Health:
    """Of all versions. Not thread-safe: the event loop's thread owns it."""

    def __init__(self) -> None:
        self._seconds: dict[Lane, deque[_Second]] = {}
        self._failed_in_row: dict[Lane, int] = {}

    def batch(self, lane: Lane, rows: int, padded_tokens: int, took_s: float, now_s: float) -> None:
        """Count a batch that ran."""
        second = self._second(lane, now_s)
        second.rows += rows
        second.batches += 1
        second.padded_tokens += padded_tokens
        second.took_s += took_s
        self._failed_in_row[lane] = 0

    def failed(self, lane: Lane, now_s: float) -> None:
        """Count a row that a version failed on."""
        self._second(lane, now_s).failed += 1
        self._failed_in_row[lane] = self._failed_in_row.get(lane, 0) + 1

    def view(self, lane: Lane, now_s: float) -> View:
        """Return the sums of the window."""
        seconds = [second for second in self._seconds.get(lane, ()) if second.at_s > now_s - WINDOW_S]
        return View(
            rows=sum(second.rows for second in seconds),
            failed=sum(second.failed for second in seconds),
            failed_in_row=self._failed_in_row.get(lane, 0),
            batches=sum(second.batches for second in seconds),
            padded_tokens=sum(second.padded_tokens for second in seconds),
            took_s=sum(second.took_s for second in seconds),
        )

    def forget(self, lane: Lane) -> None:
        """Drop a version; if its number comes again, it begins anew."""
        self._seconds.pop(lane, None)
        self._failed_in_row.pop(lane, None)

    def _second(self, lane: Lane, now_s: float) -> _Second:
        ring = self._seconds.get(lane)
        if ring is None:
            ring = self._seconds[lane] = deque(maxlen=WINDOW_S)
        if not ring or ring[-1].at_s != int(now_s):
            ring.append(_Second(int(now_s)))
        return ring[-1]
