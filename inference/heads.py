"""Logits of a batch to labelled values: calibration, thresholds and order, vectorised over the rows.

    logits [rows, labels] ──Head.read──▶ Reading (arrays of all rows) ──Reading.value(row)──▶ dict or list, score

A reading is made once per batch and head; Python values are built row by row, only where a graph's `when` is true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.head_spec import HeadSpec

LogitArray = NDArray[np.float32]
"""`[rows, labels] float32`, raw model output."""

ScoreArray = NDArray[np.float32]
"""`[rows, labels] float32`, between 0 and 1."""

Value = tuple[Any, float | None]
"""What an output shows, and its leading score."""


class Reading(Protocol):
    """One head's results for all rows of a batch. Immutable, callable from any thread."""

    def value(self, row: int, speaker: str | None = None) -> Value:
        """Build the value of one row.

        Args:
            row: Index in the batch.
            speaker: Who said it, for heads whose labels depend on that.
        """


class Head(Protocol):
    """How one logits tensor becomes values. Immutable, callable from any thread."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Model outputs it reads."""

    def read(self, arrays: Mapping[str, LogitArray]) -> Reading:
        """Score every row of a batch."""


def softmax_scores(logits: LogitArray) -> ScoreArray:
    """Turn logits into scores that sum to one per row; subtracts the row maximum, so that no logit overflows."""
    exponentials: ScoreArray = np.exp(logits - logits.max(axis=1, keepdims=True))
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def sigmoid_scores(logits: LogitArray) -> ScoreArray:
    """Turn each logit into a score of its own; by `tanh`, which overflows for no logit."""
    halves: ScoreArray = np.tanh(0.5 * logits)
    return 0.5 + 0.5 * halves


class _Calibration:
    """`logits / temperature + bias`, skipped where it changes nothing."""

    def __init__(self, temperature: float | Sequence[float], bias: Sequence[float] | float | None) -> None:
        scale = (1.0 / np.asarray(temperature, np.float64)).astype(np.float32)
        self._scale = None if np.all(scale == 1.0) else scale
        offset = np.asarray(0.0 if bias is None else bias, np.float32)
        self._bias = None if not offset.any() else offset

    def apply(self, logits: LogitArray) -> LogitArray:
        if self._scale is not None:
            logits = logits * self._scale
        return logits if self._bias is None else logits + self._bias


class _SingleReading:
    __slots__ = ("_best", "_in_scope", "_labels", "_scope_scores", "_scores")

    def __init__(
        self, labels: Sequence[str], scores: ScoreArray, scope_scores: ScoreArray | None, scope_threshold: float
    ) -> None:
        self._labels = labels
        self._best: list[int] = scores.argmax(axis=1).tolist()
        self._scores: list[float] = scores.max(axis=1).tolist()
        self._scope_scores: list[float] | None = None
        self._in_scope: list[bool] = []
        if scope_scores is not None:
            self._scope_scores = scope_scores.tolist()
            self._in_scope = (scope_scores >= scope_threshold).tolist()

    def value(self, row: int, speaker: str | None = None) -> Value:
        score = self._scores[row]
        value: dict[str, Any] = {"label": self._labels[self._best[row]], "score": score}
        if self._scope_scores is not None:
            value["in_scope"] = self._in_scope[row]
            value["in_scope_score"] = self._scope_scores[row]
        return value, score


class _SingleHead:
    """The best label, and whether the text is within the labels at all."""

    def __init__(self, tensor: str, spec: HeadSpec, labels: Sequence[str]) -> None:
        self.tensors = (tensor, spec.scope) if spec.scope else (tensor,)
        self._labels = labels
        self._calibration = _Calibration(spec.temperature, spec.bias)
        self._scope_calibration = _Calibration(spec.scope_temperature, spec.scope_bias)
        self._scope_threshold = spec.scope_threshold

    def read(self, arrays: Mapping[str, LogitArray]) -> Reading:
        scores = softmax_scores(self._calibration.apply(arrays[self.tensors[0]]))
        scope_scores = None
        if len(self.tensors) == 2:
            scope_scores = sigmoid_scores(self._scope_calibration.apply(arrays[self.tensors[1]][:, 0]))
        return _SingleReading(self._labels, scores, scope_scores, self._scope_threshold)


class _DistributionReading:
    __slots__ = ("_best", "_labels", "_scores")

    def __init__(self, labels: Sequence[str], scores: ScoreArray) -> None:
        self._labels = labels
        self._best: list[int] = scores.argmax(axis=1).tolist()
        self._scores: list[list[float]] = scores.tolist()

    def value(self, row: int, speaker: str | None = None) -> Value:
        scores, best = self._scores[row], self._best[row]
        by_label = dict(zip(self._labels, scores, strict=True))
        return {"label": self._labels[best], "score": scores[best], "scores": by_label}, scores[best]


class _DistributionHead:
    """The best label and the score of each."""

    def __init__(self, tensor: str, spec: HeadSpec, labels: Sequence[str]) -> None:
        self.tensors = (tensor,)
        self._labels = labels
        self._calibration = _Calibration(spec.temperature, spec.bias)

    def read(self, arrays: Mapping[str, LogitArray]) -> Reading:
        return _DistributionReading(self._labels, softmax_scores(self._calibration.apply(arrays[self.tensors[0]])))


class _MultiReading:
    __slots__ = ("_claims", "_labels", "_speakers", "_starts")

    def __init__(
        self,
        labels: Sequence[str],
        speakers: Mapping[str, frozenset[int]],
        claims: list[tuple[int, float]],
        starts: list[int],
    ) -> None:
        self._labels = labels
        self._speakers = speakers
        self._claims = claims
        self._starts = starts

    def value(self, row: int, speaker: str | None = None) -> Value:
        claims = self._claims[self._starts[row] : self._starts[row + 1]]
        allowed = self._speakers.get(speaker) if speaker is not None else None
        if allowed is not None:
            claims = [claim for claim in claims if claim[0] in allowed]
        value = [{"label": self._labels[label], "score": score} for label, score in claims]
        return value, claims[0][1] if claims else None


class _MultiHead:
    """Every label at or above its threshold, best first."""

    def __init__(self, tensor: str, spec: HeadSpec, labels: Sequence[str]) -> None:
        self.tensors = (tensor,)
        self._labels = labels
        self._calibration = _Calibration(spec.temperature, spec.bias)
        self._thresholds = np.asarray(spec.threshold, np.float32)
        index = {label: i for i, label in enumerate(labels)}
        self._speakers = {
            speaker: frozenset(index[label] for label in chosen) for speaker, chosen in (spec.speakers or {}).items()
        }

    def read(self, arrays: Mapping[str, LogitArray]) -> Reading:
        scores = sigmoid_scores(self._calibration.apply(arrays[self.tensors[0]]))
        claims, starts = best_first(scores, scores >= self._thresholds)
        return _MultiReading(self._labels, self._speakers, claims, starts)


class _BinaryReading:
    __slots__ = ("_flag", "_flags", "_scores")

    def __init__(self, flag: str | None, scores: ScoreArray, threshold: float) -> None:
        self._flag = flag
        self._flags: list[bool] = (scores >= threshold).tolist()
        self._scores: list[float] = scores.tolist()

    def value(self, row: int, speaker: str | None = None) -> Value:
        score = self._scores[row]
        return ({"score": score} if self._flag is None else {self._flag: self._flags[row], "score": score}), score


class _BinaryHead:
    """One score, and whether it reaches the threshold."""

    def __init__(self, tensor: str, spec: HeadSpec) -> None:
        self.tensors = (tensor,)
        self._flag = spec.flag
        self._calibration = _Calibration(spec.temperature, spec.bias)
        self._threshold = float(np.asarray(spec.threshold, np.float32).reshape(-1)[0])

    def read(self, arrays: Mapping[str, LogitArray]) -> Reading:
        scores = sigmoid_scores(self._calibration.apply(arrays[self.tensors[0]])[:, 0])
        return _BinaryReading(self._flag, scores, self._threshold)


def make_head(tensor: str, spec: HeadSpec, labels: Sequence[str]) -> Head:
    """Build the head of one logits tensor.

    Args:
        tensor: Model output `[rows, labels]`.
        spec: Its post-processing, checked by `head_spec.read_heads`.
        labels: One a column; unused by binary heads.
    """
    match spec.kind:
        case "single":
            return _SingleHead(tensor, spec, labels)
        case "distribution":
            return _DistributionHead(tensor, spec, labels)
        case "multi":
            return _MultiHead(tensor, spec, labels)
        case "binary":
            return _BinaryHead(tensor, spec)


def best_first(scores: ScoreArray, is_claimed: NDArray[np.bool_]) -> tuple[list[tuple[int, float]], list[int]]:
    """Collect the claimed columns of each row by descending score, equal scores by column.

    Args:
        scores: `[rows, columns] float32`.
        is_claimed: `[rows, columns] bool`.

    Returns:
        `(column, score)` of all rows one after the other, and where each row starts, one more than rows.
    """
    rows, columns = is_claimed.nonzero()
    found = scores[rows, columns]
    order = np.lexsort((columns, -found, rows))
    starts: list[int] = np.searchsorted(rows, np.arange(len(scores) + 1)).tolist()
    return list(zip(columns[order].tolist(), found[order].tolist(), strict=True)), starts
