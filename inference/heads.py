"""Logits of a batch to labelled values: all heads in one pass over one matrix.

    logits of every head, side by side [rows, columns] ──calibrate──▶ softmax | tanh ──▶ Reading
    Reading.value(head, row) ──▶ dict or list, leading score

Laying the heads side by side takes 30 array operations a batch, in place, whatever the number of heads; one head after
the other took 110. It is their number that counts: after a model's pass each finds the caches cold. Sigmoids stay
`tanh(x / 2)` until a value is built, `sigmoid(x) = (1 + tanh(x / 2)) / 2`. Python values are built only where a graph's
`when` is true.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.head_spec import HeadSpec

LogitArray = NDArray[np.floating[Any]]
"""`[rows, labels]`, raw model output."""

ScoreArray = NDArray[np.float32]
"""`[rows, columns] float32`, between 0 and 1."""

Value = tuple[Any, float | None]
"""What an output shows, and its leading score."""

_NO_SCORES: ScoreArray = np.empty((0, 0), np.float32)

View = Callable[["Reading", int, str | None], Value]
"""One head's part of a reading: row and speaker in."""


class HeadBank:
    """The heads of a model version that somebody asks for. Immutable, callable from any thread.

    Columns of the matrix: softmax heads (`single`, `distribution`), then `multi` heads, then one column each for
    `binary` heads and scopes.
    """

    def __init__(self, specs: Mapping[str, HeadSpec], labels: Mapping[str, Sequence[str]]) -> None:
        """Lay out the columns.

        Args:
            specs: Post-processing of each logits tensor, checked by `head_spec.read_heads`.
            labels: One a column of each tensor that is not binary.
        """
        softmax = [t for t, spec in specs.items() if spec.kind in ("single", "distribution")]
        multi = [t for t, spec in specs.items() if spec.kind == "multi"]
        binary = [t for t, spec in specs.items() if spec.kind == "binary"]
        self._columns: list[str] = []
        self._scales: list[NDArray[np.float32]] = []
        self._biases: list[NDArray[np.float32]] = []
        self._views: dict[str, View] = {}
        self._labels = labels
        self._carried = {t: spec for t, spec in specs.items() if spec.carry is not None}
        self._after: HeadBank | None = None
        for tensor in (*softmax, *multi, *binary):
            spec = specs[tensor]
            self._add(tensor, 1 if spec.kind == "binary" else len(labels[tensor]), spec.temperature, spec.bias)
        num_scalars = len(binary)
        for position, tensor in enumerate(softmax):
            spec = specs[tensor]
            scope = None
            if spec.scope is not None:
                self._add(spec.scope, 1, spec.scope_temperature, [spec.scope_bias])
                scope, num_scalars = num_scalars, num_scalars + 1
            kind = _Single if spec.kind == "single" else _Distribution
            head = kind(tuple(labels[tensor]), position, scope, _as_float32(spec.scope_threshold))
            self._views[tensor] = head.value
        for position, tensor in enumerate(multi):
            self._views[tensor] = _Multi(tuple(labels[tensor]), position, _allowed(specs[tensor], labels[tensor])).value
        for position, tensor in enumerate(binary):
            threshold = specs[tensor].threshold
            first = threshold[0] if isinstance(threshold, list) else threshold
            self._views[tensor] = _Binary(specs[tensor].flag, position, _as_float32(first)).value
        widths = [len(labels[tensor]) for tensor in softmax]
        starts = np.concatenate([[0], np.cumsum(widths)]).astype(np.intp)
        self._starts = starts[:-1]
        self._spans = [slice(a, b) for a, b in pairwise(starts.tolist())]
        self._head_of = np.repeat(np.arange(len(widths)), widths)
        self._num_softmax = sum(widths)
        self._scale = np.concatenate(self._scales) if self._scales else np.empty(0, np.float32)
        self._bias = np.concatenate(self._biases) if self._biases else np.empty(0, np.float32)
        self._scale[self._num_softmax :] *= 0.5
        self._bias[self._num_softmax :] *= 0.5
        self._distributions = [i for i, tensor in enumerate(softmax) if specs[tensor].kind == "distribution"]
        multi_widths = [len(labels[tensor]) for tensor in multi]
        self._num_multi = sum(multi_widths)
        self._multi_of = [(head, label) for head, width in enumerate(multi_widths) for label in range(width)]
        self._thresholds = np.concatenate(
            [
                np.broadcast_to(np.asarray(specs[t].threshold, np.float32), w)
                for t, w in zip(multi, multi_widths, strict=True)
            ]
            or [np.empty(0, np.float32)]
        )
        self._thresholds = 2.0 * self._thresholds - 1.0

    def _add(self, tensor: str, width: int, temperature: float | list[float], bias: list[float] | None) -> None:
        self._columns.append(tensor)
        self._scales.append(np.broadcast_to(1.0 / np.asarray(temperature), width).astype(np.float32))
        self._biases.append(np.zeros(width, np.float32) if bias is None else np.asarray(bias, np.float32))

    @property
    def tensors(self) -> frozenset[str]:
        """Model outputs it reads."""
        return frozenset(self._columns)

    @property
    def views(self) -> Mapping[str, View]:
        """How the value of each logits tensor is built."""
        return self._views

    def read(self, arrays: Mapping[str, LogitArray]) -> Reading:
        """Score every row of a batch with every head.

        Args:
            arrays: At least `tensors`, each `[rows, labels]`.
        """
        if not self._columns:
            return Reading(self._views, [], _NO_SCORES, {}, {}, _NO_SCORES, frozenset())
        logits = np.concatenate([arrays[tensor] for tensor in self._columns], axis=1, dtype=np.float32)
        np.multiply(logits, self._scale, logits)
        np.add(logits, self._bias, logits)
        broken: frozenset[int] = frozenset()
        if not math.isfinite(logits.sum()):  # one number is not finite if any is not
            broken = frozenset(np.flatnonzero(~np.isfinite(logits).all(axis=1)).tolist())
            logits[list(broken)] = 0.0
        best, totals, shares = self._read_softmax(logits[:, : self._num_softmax])
        halves = logits[:, self._num_softmax :]
        np.tanh(halves, halves)
        claims: dict[tuple[int, int], list[tuple[float, int]]] = {}
        if self._num_multi:
            multi = halves[:, : self._num_multi]
            rows, columns = (multi >= self._thresholds).nonzero()
            for row, column, half in zip(rows.tolist(), columns.tolist(), multi[rows, columns].tolist(), strict=True):
                head, label = self._multi_of[column]
                claims.setdefault((row, head), []).append((-_sigmoid(half), label))
        return Reading(self._views, best, totals, shares, claims, halves[:, self._num_multi :].copy(), broken)

    def read_after(
        self, arrays: Mapping[str, LogitArray], rows: Sequence[int], carried: Sequence[ScoreArray | None]
    ) -> Reading:
        """Score rows with the heads to which the turn before hands something on; the others have no value in it.

        What is kept of a batch stays as it was: the same words are said after other turns as well.

        Args:
            arrays: As for `read`; not changed.
            rows: Rows of these, in the order of the reading's.
            carried: `[columns] float32` for each of these rows, None for a turn with none before it.
        """
        if self._after is None:
            self._after = HeadBank(self._carried, self._labels)  # a race makes it twice, both the same
        width = max((len(numbers) for numbers in carried if numbers is not None), default=0)
        added = np.zeros((len(rows), width), np.float32)
        for place, numbers in enumerate(carried):
            if numbers is not None:
                added[place] = numbers
        moved = dict(arrays)
        for tensor, spec in self._carried.items():
            logits = arrays[tensor][rows]
            columns = added[:, spec.carry_first : spec.carry_first + logits.shape[1]]
            moved[tensor] = np.add(logits, columns, dtype=np.float32)
            if spec.scope is not None:
                moved[spec.scope] = arrays[spec.scope][rows]
        return self._after.read(moved)

    def _read_softmax(self, logits: ScoreArray) -> tuple[list[NDArray[np.intp]], ScoreArray, dict[int, ScoreArray]]:
        """Return the best label by head and row, the sums by row and head, and all scores of distributions.

        Overwrites the logits with exponentials, of which the best label's own is 1: its score is 1 over the sum.
        """
        if not self._num_softmax:
            return [], _NO_SCORES, {}
        best = [logits[:, span].argmax(1) for span in self._spans]
        highest = np.maximum.reduceat(logits, self._starts, 1)
        np.subtract(logits, highest.take(self._head_of, 1), logits)
        np.exp(logits, logits)
        totals = np.add.reduceat(logits, self._starts, 1)
        shares: dict[int, ScoreArray] = {
            head: np.divide(logits[:, self._spans[head]], totals[:, head : head + 1]) for head in self._distributions
        }
        return best, totals, shares


@dataclass(frozen=True, slots=True)
class Reading:
    """What all heads say about all rows of a batch. Callable from any thread.

    Arrays and not lists: the memo keeps thousands of these, and the garbage collector walks lists but not arrays.

    Attributes:
        views: How the value of each logits tensor is built.
        best: Best label of each softmax head: `[rows] intp` by head.
        totals: `[rows, heads] float32`, one over its score.
        shares: All scores of a distribution head: `[rows, labels] float32` by head.
        claims: Negative score and label of each claim of a multi head, by row and head.
        halves: `[rows, columns] float32`, `tanh(x / 2)` of binary heads and scopes.
        broken: Rows with a logit that is no number.
    """

    views: Mapping[str, View]
    best: list[NDArray[np.intp]]
    totals: ScoreArray
    shares: dict[int, ScoreArray]
    claims: dict[tuple[int, int], list[tuple[float, int]]]
    halves: ScoreArray
    broken: frozenset[int]

    def value(self, tensor: str, row: int, speaker: str | None = None) -> Value:
        """Build the value of one row.

        Args:
            tensor: Logits tensor of the head.
            row: Index in the batch.
            speaker: Who said it, for heads whose labels depend on that.

        Raises:
            ValueError: If the model gave something other than numbers for this row.
        """
        if row in self.broken:
            raise ValueError("the model's logits are not finite")
        return self.views[tensor](self, row, speaker)


@dataclass(frozen=True, slots=True)
class _Single:
    """The best label, and whether the text is within the labels at all."""

    labels: tuple[str, ...]
    position: int
    scope: int | None
    scope_threshold: float

    def value(self, reading: Reading, row: int, speaker: str | None) -> Value:
        score = 1.0 / reading.totals.item(row, self.position)
        label = self.labels[reading.best[self.position].item(row)]
        if self.scope is None:
            return {"label": label, "score": score}, score
        scope = _sigmoid(reading.halves.item(row, self.scope))
        in_scope = scope >= self.scope_threshold
        return {"label": label, "score": score, "in_scope": in_scope, "in_scope_score": scope}, score


@dataclass(frozen=True, slots=True)
class _Distribution:
    """The best label and the score of each."""

    labels: tuple[str, ...]
    position: int
    scope: int | None
    scope_threshold: float

    def value(self, reading: Reading, row: int, speaker: str | None) -> Value:
        scores = reading.shares[self.position][row].tolist()
        best = reading.best[self.position].item(row)
        by_label = dict(zip(self.labels, scores, strict=True))
        return {"label": self.labels[best], "score": scores[best], "scores": by_label}, scores[best]


@dataclass(frozen=True, slots=True)
class _Multi:
    """Every label at or above its threshold, best first."""

    labels: tuple[str, ...]
    position: int
    speakers: Mapping[str, frozenset[int]]

    def value(self, reading: Reading, row: int, speaker: str | None) -> Value:
        claims = reading.claims.get((row, self.position))
        allowed = self.speakers.get(speaker) if speaker is not None else None
        if claims is not None and allowed is not None:
            claims = [claim for claim in claims if claim[1] in allowed]
        if not claims:
            return [], None
        best_first = sorted(claims)
        return [{"label": self.labels[label], "score": -score} for score, label in best_first], -best_first[0][0]


@dataclass(frozen=True, slots=True)
class _Binary:
    """One score, and whether it reaches the threshold."""

    flag: str | None
    position: int
    threshold: float

    def value(self, reading: Reading, row: int, speaker: str | None) -> Value:
        score = _sigmoid(reading.halves.item(row, self.position))
        return ({"score": score} if self.flag is None else {self.flag: score >= self.threshold, "score": score}), score


def _allowed(spec: HeadSpec, labels: Sequence[str]) -> dict[str, frozenset[int]]:
    index = {label: i for i, label in enumerate(labels)}
    return {speaker: frozenset(index[label] for label in own) for speaker, own in (spec.speakers or {}).items()}


def _sigmoid(half: float) -> float:
    """Return the score of a logit from its `tanh(x / 2)`."""
    return 0.5 + 0.5 * half


def _as_float32(threshold: float) -> float:
    """Round a threshold as scores are rounded, so that a score equal to it reaches it."""
    return float(np.float32(threshold))


def best_first(scores: ScoreArray, is_claimed: NDArray[np.bool_]) -> tuple[list[tuple[int, float]], list[int]]:
    """Collect the claimed columns of each row by descending score, equal scores by column.

    Args:
        scores: `[rows, columns] float32`.
        is_claimed: `[rows, columns] bool`.

    Returns:
        `(column, score)` of all rows one after the other, and where each row starts, one more than rows.
    """
    rows, columns = is_claimed.nonzero()
    if not rows.size:
        return [], [0] * (len(scores) + 1)
    found = scores[rows, columns]
    order = np.lexsort((columns, -found, rows))
    starts: list[int] = np.searchsorted(rows, np.arange(len(scores) + 1)).tolist()
    return list(zip(columns[order].tolist(), found[order].tolist(), strict=True)), starts
