"""The gaps that the agent was told of, and what becomes of each. Pure.

open [from, …) ─▶ closed [from, to) ─▶ backfilled | lost
"""

from __future__ import annotations

from dataclasses import dataclass

from server.speech.contract import SpeechGap


@dataclass(slots=True)
class _Gap:
    from_ms: int
    to_ms: int | None
    cause: str


class Gaps:
    """Gaps of one side that are not mended yet; at most one of them is open. Methods return what to tell."""

    def __init__(self) -> None:
        self._gaps: list[_Gap] = []

    def includes(self, at_ms: int) -> bool:
        """Whether an audio time lies in a gap that was told."""
        return any(gap.from_ms <= at_ms and (gap.to_ms is None or at_ms < gap.to_ms) for gap in self._gaps)

    def open(self, from_ms: int, cause: str) -> list[SpeechGap]:
        """Live is away since there; tells it once."""
        if any(gap.to_ms is None for gap in self._gaps):
            return []
        self._gaps.append(_Gap(from_ms, None, cause))
        return [SpeechGap(from_ms, None, cause, "open")]

    def close(self, to_ms: int) -> list[SpeechGap]:
        """Live goes on there."""
        told = []
        for gap in self._gaps:
            if gap.to_ms is None:
                gap.to_ms = to_ms
                told.append(SpeechGap(gap.from_ms, to_ms, gap.cause, "closed"))
        return told

    def mended(self, covered_ms: int) -> list[SpeechGap]:
        """Everything before `covered_ms` is recognised, or known to be lost."""
        done = [gap for gap in self._gaps if gap.to_ms is not None and gap.to_ms <= covered_ms]
        self._gaps = [gap for gap in self._gaps if gap not in done]
        return [SpeechGap(gap.from_ms, gap.to_ms, gap.cause, "backfilled") for gap in done if gap.to_ms != gap.from_ms]

    def lost(self, from_ms: int, to_ms: int) -> list[SpeechGap]:
        """A span is gone for good: told as a gap of its own, which a gap that held it no longer does."""
        if from_ms >= to_ms:
            return []
        cause = "audio_lost"
        rest: list[_Gap] = []
        for gap in self._gaps:
            if gap.from_ms <= from_ms and (gap.to_ms is None or from_ms < gap.to_ms):
                cause = gap.cause
                from_ms = gap.from_ms
                if gap.to_ms is not None and gap.to_ms <= to_ms:
                    continue
                gap.from_ms = to_ms
            rest.append(gap)
        self._gaps = rest
        return [SpeechGap(from_ms, to_ms, cause, "lost")]
