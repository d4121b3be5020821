"""A set of audio milliseconds, kept as disjoint spans: what has been closed, so that a late word is known as late."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Spans:
    """Union of half-open spans `[start_ms, end_ms)`. Speech in order keeps it at a handful of them."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start_ms: int, end_ms: int) -> None:
        """Take a span in; those that touch it melt into it. An empty span changes nothing."""
        if end_ms <= start_ms:
            return
        first = bisect_left(self._ends, start_ms)
        last = bisect_right(self._starts, end_ms)
        if first < last:
            start_ms = min(start_ms, self._starts[first])
            end_ms = max(end_ms, self._ends[last - 1])
        self._starts[first:last] = [start_ms]
        self._ends[first:last] = [end_ms]

    def overlap_ms(self, start_ms: int, end_ms: int) -> int:
        """How much of a span is in the set."""
        total_ms = 0
        index = bisect_right(self._ends, start_ms)
        while index < len(self._starts) and self._starts[index] < end_ms:
            total_ms += max(0, min(end_ms, self._ends[index]) - max(start_ms, self._starts[index]))
            index += 1
        return total_ms

    def __contains__(self, at_ms: int) -> bool:
        index = bisect_right(self._starts, at_ms) - 1
        return index >= 0 and at_ms < self._ends[index]

    def __len__(self) -> int:
        return len(self._starts)
