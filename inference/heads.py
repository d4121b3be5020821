"""Logits of a batch to labelled values: all heads in one pass over one matrix.

    logits of every head, side by side [rows, columns] ──calibrate──▶ softmax | tanh ──▶ Reading
    Reading.numbers ──head_views──▶ dict or list, leading score

Laying the heads side by side takes 20 array operations a batch, in place, whatever the number of heads; one head after
the other took 110. It is their number that counts: after a model's pass each finds the caches cold. Sigmoids stay
`tanh(x / 2)` until a value is built, `sigmoid(x) = (1 + tanh(x / 2)) / 2`. Python values are built only where a graph's
`when` is true (`head_views`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from inference.head_spec import HeadSpec
from inference.head_views import Binary, Distribution, Multi, Numbers, Single, Speakers, Value, View

LogitArray = NDArray[np.floating[Any]]
"""`[rows, labels]`, raw model output."""

ScoreArray = NDArray[np.float32]
"""`[rows, columns] float32`, between 0 and 1."""

LabelArray = NDArray[np.intp]
"""`[rows, heads]`, index of a label."""

_NO_SCORES: ScoreArray = np.empty((0, 0), np.float32)
_NO_LABELS: LabelArray = np.empty((0, 0), np.intp)


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
        self._carried: list[tuple[slice, slice]] = []
        for tensor in (*softmax, *multi, *binary):
            spec = specs[tensor]
            width = 1 if spec.kind == "binary" else len(labels[tensor])
            if spec.carry is not None:
                column = sum(len(scale) for scale in self._scales)
                numbers = slice(spec.carry_first, spec.carry_first + width)
                self._carried.append((slice(column, column + width), numbers))
            self._add(tensor, width, spec.temperature, spec.bias)
        num_scalars = len(binary)
        for position, tensor in enumerate(softmax):
            spec = specs[tensor]
            scope = None
            if spec.scope is not None:
                self._add(spec.scope, 1, spec.scope_temperature, [spec.scope_bias])
                scope, num_scalars = num_scalars, num_scalars + 1
            own = tuple(labels[tensor])
            self._views[tensor] = (
                Single(own, position, scope, _as_float32(spec.scope_threshold)).values
                if spec.kind == "single"
                else Distribution(own, position).values
            )
        for position, tensor in enumerate(multi):
            self._views[tensor] = Multi(tuple(labels[tensor]), position, _allowed(specs[tensor], labels[tensor])).values
        for position, tensor in enumerate(binary):
            threshold = specs[tensor].threshold
            first = threshold[0] if isinstance(threshold, list) else threshold
            self._views[tensor] = Binary(specs[tensor].flag, position, _as_float32(first)).values
        widths = [len(labels[tensor]) for tensor in softmax]
        starts = np.concatenate([[0], np.cumsum(widths)]).astype(np.intp)
        self._starts = starts[:-1]
        self._spans = [slice(a, b) for a, b in pairwise(starts.tolist())]
        self._widths = np.array(widths, np.intp)
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
            arrays: At least `tensors`, each `[rows, labels]`; not changed.
        """
        return self._read(self._side_by_side(arrays)) if self._columns else Reading(self._views)

    def read_after(
        self, arrays: Mapping[str, LogitArray], rows: Sequence[int], carried: Sequence[ScoreArray | None]
    ) -> Reading:
        """Score rows with what the turn before each handed on added to their logits.

        Args:
            arrays: As for `read`.
            rows: Rows of these, in the order of the reading's; the same row may come several times.
            carried: `[columns] float32` for each of these rows, None for a turn with none before it. What is not
                finite is left aside, whole.
        """
        width = max(len(numbers) for numbers in carried if numbers is not None)
        added = np.array([np.zeros(width, np.float32) if numbers is None else numbers for numbers in carried])
        reading = self._read(self._moved(arrays, rows, added))
        if reading.broken and not (is_finite := np.isfinite(added).all(1)).all():
            added[~is_finite] = 0.0
            reading = self._read(self._moved(arrays, rows, added))
        return reading

    def _moved(self, arrays: Mapping[str, LogitArray], rows: Sequence[int], added: ScoreArray) -> ScoreArray:
        logits = self._side_by_side(arrays)
        if list(rows) != list(range(len(logits))):
            logits = logits.take(rows, 0)
        for columns, numbers in self._carried:  # slices, which cost half of one sum over indices
            moved = logits[:, columns]
            np.add(moved, added[:, numbers], moved)
        return logits

    def _side_by_side(self, arrays: Mapping[str, LogitArray]) -> ScoreArray:
        logits = np.concatenate([arrays[tensor] for tensor in self._columns], 1)
        return logits.astype(np.float32, copy=False)

    def _read(self, logits: ScoreArray) -> Reading:
        """Score a matrix; overwrites it."""
        np.multiply(logits, self._scale, logits)
        np.add(logits, self._bias, logits)
        broken: frozenset[int] = frozenset()
        if not math.isfinite(np.add.reduce(logits, None)):  # one number is not finite if any is not
            broken = frozenset(np.flatnonzero(~np.isfinite(logits).all(axis=1)).tolist())
            logits[list(broken)] = 0.0
        best, totals, shares = self._read_softmax(logits[:, : self._num_softmax])
        halves = logits[:, self._num_softmax :]
        np.tanh(halves, halves)
        claims: dict[tuple[int, int], list[tuple[float, int]]] = {}
        if self._num_multi:
            rows, columns = (halves[:, : self._num_multi] >= self._thresholds).nonzero()
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                head, label = self._multi_of[column]
                claims.setdefault((row, head), []).append((-0.5 - 0.5 * halves.item(row, column), label))
        return Reading(self._views, best, totals, shares, claims, halves[:, self._num_multi :].copy(), broken)

    def _read_softmax(self, logits: ScoreArray) -> tuple[LabelArray, ScoreArray, dict[int, ScoreArray]]:
        """Return the best label by row and head, the sums by row and head, and all scores of distributions.

        Overwrites the logits with exponentials, of which the best label's own is 1: its score is 1 over the sum.
        """
        if not self._num_softmax:
            return _NO_LABELS, _NO_SCORES, {}
        highest = np.maximum.reduceat(logits, self._starts, 1)
        np.subtract(logits, highest.repeat(self._widths, 1), logits)
        best = self._best(logits)
        np.exp(logits, logits)
        totals = np.add.reduceat(logits, self._starts, 1)
        shares: dict[int, ScoreArray] = {
            head: np.divide(logits[:, self._spans[head]], totals[:, head : head + 1]) for head in self._distributions
        }
        return best, totals, shares

    def _best(self, below: ScoreArray) -> LabelArray:
        """Return the first label of each head that is not below the head's highest logit, `[rows, heads]`.

        All are numbers: a head without any would hide that another has two.

        Where no two are equal they are found at once. `argmax` is a call a head, and each hands the interpreter to
        whichever thread waits for it.
        """
        columns: LabelArray = (below == 0.0).nonzero()[1]
        shape = (len(below), len(self._spans))
        if len(columns) == shape[0] * shape[1]:
            labels: LabelArray = columns.reshape(shape) - self._starts
            return labels
        return np.stack([below[:, span].argmax(1) for span in self._spans], 1)


class Reading(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What all heads say about all rows of a batch. Callable from any thread.

    Arrays and not lists: the memo keeps thousands of these, and the garbage collector walks lists but not arrays.

    Attributes:
        views: How the value of each logits tensor is built.
        best: `[rows, heads] intp`, best label of each softmax head.
        totals: `[rows, heads] float32`, one over its score.
        shares: All scores of a distribution head: `[rows, labels] float32` by head.
        claims: Negative score and label of each claim of a multi head, by row and head.
        halves: `[rows, columns] float32`, `tanh(x / 2)` of binary heads and scopes.
        broken: Rows with a logit that is no number.
    """

    views: Mapping[str, View]
    best: LabelArray = _NO_LABELS
    totals: ScoreArray = _NO_SCORES
    shares: Mapping[int, ScoreArray] = {}
    claims: Mapping[tuple[int, int], list[tuple[float, int]]] = {}
    halves: ScoreArray = _NO_SCORES
    broken: frozenset[int] = frozenset()

    @property
    def numbers(self) -> Numbers:
        """The same as plain Python numbers: one conversion an array costs less than one a number."""
        return Numbers(
            self.best.T.tolist(),
            self.totals.tolist(),
            {head: scores.tolist() for head, scores in self.shares.items()},
            self.claims,
            self.halves.tolist(),
        )

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
        speakers: Speakers = [speaker]
        return self.views[tensor](self.numbers, [row], speakers)[0]


def _allowed(spec: HeadSpec, labels: Sequence[str]) -> dict[str, frozenset[int]]:
    index = {label: i for i, label in enumerate(labels)}
    return {speaker: frozenset(index[label] for label in own) for speaker, own in (spec.speakers or {}).items()}


def _as_float32(threshold: float) -> float:
    """Round a threshold as scores are rounded, so that a score equal to it reaches it."""
    return float(np.float32(threshold))
