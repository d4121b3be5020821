"""What a head's numbers look like to a reader: the labelled value of each kind of head.

    Numbers of a batch, rows of it ──view──▶ (dict or list, leading score) a row

A view answers for many rows at once: one call a head and batch, the rest is one expression a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

Value = tuple[Any, float | None]
"""What an output shows, and its leading score."""

Speakers = Sequence[str | None]
"""Who said each row, for heads whose labels depend on that."""


class Numbers(msgspec.Struct, frozen=True, eq=False):
    """A reading as plain Python numbers, row by row.

    Attributes:
        best: Best label of each softmax head: by head, then row.
        totals: One over its score: by row, then head.
        shares: All scores of a distribution head: by head, row, label.
        claims: Negative score and label of each claim of a multi head, by row and head.
        halves: `tanh(x / 2)` of binary heads and scopes: by row, then column.
    """

    best: Sequence[Sequence[int]]
    totals: Sequence[Sequence[float]]
    shares: Mapping[int, Sequence[Sequence[float]]]
    claims: Mapping[tuple[int, int], list[tuple[float, int]]]
    halves: Sequence[Sequence[float]]


View = Callable[[Numbers, Sequence[int], Speakers], list[Value]]
"""One head's part: rows and their speakers in, a value a row out."""


@dataclass(frozen=True, slots=True)
class Single:
    """The best label, and whether the text is within the labels at all."""

    labels: tuple[str, ...]
    position: int
    scope: int | None
    scope_threshold: float

    def values(self, numbers: Numbers, rows: Sequence[int], _: Speakers) -> list[Value]:
        """See `View`."""
        labels, position, scope, threshold = self.labels, self.position, self.scope, self.scope_threshold
        best, totals, halves = numbers.best[position], numbers.totals, numbers.halves
        if scope is None:
            return [
                ({"label": labels[best[row]], "score": (score := 1.0 / totals[row][position])}, score) for row in rows
            ]
        return [
            (
                {
                    "label": labels[best[row]],
                    "score": (score := 1.0 / totals[row][position]),
                    "in_scope": (inside := 0.5 + 0.5 * halves[row][scope]) >= threshold,
                    "in_scope_score": inside,
                },
                score,
            )
            for row in rows
        ]


@dataclass(frozen=True, slots=True)
class Distribution:
    """The best label and the score of each."""

    labels: tuple[str, ...]
    position: int

    def values(self, numbers: Numbers, rows: Sequence[int], _: Speakers) -> list[Value]:
        """See `View`."""
        labels, best, shares = self.labels, numbers.best[self.position], numbers.shares[self.position]
        return [
            (
                {
                    "label": labels[(label := best[row])],
                    "score": (score := (scores := shares[row])[label]),
                    "scores": dict(zip(labels, scores, strict=True)),
                },
                score,
            )
            for row in rows
        ]


@dataclass(frozen=True, slots=True)
class Multi:
    """Every label at or above its threshold, best first."""

    labels: tuple[str, ...]
    position: int
    speakers: Mapping[str, frozenset[int]]

    def values(self, numbers: Numbers, rows: Sequence[int], speakers: Speakers) -> list[Value]:
        """See `View`."""
        return [self._value(numbers, row, speaker) for row, speaker in zip(rows, speakers, strict=True)]

    def _value(self, numbers: Numbers, row: int, speaker: str | None) -> Value:
        claims = numbers.claims.get((row, self.position))
        if claims is not None and speaker is not None and (allowed := self.speakers.get(speaker)) is not None:
            claims = [claim for claim in claims if claim[1] in allowed]
        if not claims:
            return [], None
        best_first = sorted(claims)
        return [{"label": self.labels[label], "score": -score} for score, label in best_first], -best_first[0][0]


@dataclass(frozen=True, slots=True)
class Binary:
    """One score, and whether it reaches the threshold."""

    flag: str | None
    position: int
    threshold: float

    def values(self, numbers: Numbers, rows: Sequence[int], _: Speakers) -> list[Value]:
        """See `View`."""
        flag, position, threshold, halves = self.flag, self.position, self.threshold, numbers.halves
        scores = [0.5 + 0.5 * halves[row][position] for row in rows]
        if flag is None:
            return [({"score": score}, score) for score in scores]
        return [({flag: score >= threshold, "score": score}, score) for score in scores]
