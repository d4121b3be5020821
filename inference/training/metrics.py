"""Numbers that say how right a head is. Pure numpy, and cross-checked against scikit-learn in the tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.training.tasks import FloatArray

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Counts:
    """Per label `[labels]`: claimed and true, claimed in all, true in all."""

    hits: NDArray[np.int64]
    claimed: NDArray[np.int64]
    true: NDArray[np.int64]

    @property
    def f1(self) -> FloatArray:
        """F1 of each label; 0 where it is neither claimed nor true."""
        return np.asarray(2 * self.hits / np.maximum(self.claimed + self.true, 1), np.float32)

    @property
    def recall(self) -> FloatArray:
        """Recall of each label."""
        return np.asarray(self.hits / np.maximum(self.true, 1), np.float32)

    @property
    def precision(self) -> FloatArray:
        """Precision of each label."""
        return np.asarray(self.hits / np.maximum(self.claimed, 1), np.float32)

    @property
    def micro_f1(self) -> float:
        """F1 over all labels' decisions together."""
        return float(2 * self.hits.sum() / max(self.claimed.sum() + self.true.sum(), 1))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the labels that occur."""
        return _mean(self.f1[self.true > 0])

    @property
    def macro_recall(self) -> float:
        """Mean recall of the labels that occur."""
        return _mean(self.recall[self.true > 0])

    @property
    def weighted_f1(self) -> float:
        """Mean F1 of the labels, weighted by how often each is true."""
        return float((self.f1 * self.true).sum() / max(self.true.sum(), 1))


def _mean(values: FloatArray) -> float:
    """Mean, and 0 where there is nothing: a small set may lack every label."""
    return float(values.mean()) if values.size else 0.0


def count(claimed: BoolArray, true: BoolArray) -> Counts:
    """Count decisions `[rows, labels]` per label."""
    return Counts(
        hits=(claimed & true).sum(0).astype(np.int64),
        claimed=claimed.sum(0).astype(np.int64),
        true=true.sum(0).astype(np.int64),
    )


def one_hot(chosen: NDArray[np.intp], num_labels: int) -> BoolArray:
    """Turn chosen labels `[rows]` into decisions `[rows, labels]`."""
    return np.asarray(chosen[:, None] == np.arange(num_labels))


def auroc(positive: FloatArray, negative: FloatArray) -> float:
    """Chance that a positive scores above a negative, ties counting half; one half where a side has no rows."""
    if not len(positive) or not len(negative):
        return 0.5
    both = np.concatenate([positive, negative])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    wins = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(wins / (len(positive) * len(negative)))


def average_precision(scores: FloatArray, true: BoolArray) -> float:
    """Area under precision over recall, summed at each true row; tied scores are taken together."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(true[order])
    # A threshold cannot part equal scores: only the last row of a tie is a point of the curve.
    last = np.append(np.diff(scores[order]) != 0, True)
    precision = (hits / np.arange(1, len(scores) + 1))[last]
    gained = np.diff(hits[last], prepend=0)
    return float((precision * gained).sum() / max(hits[-1], 1))


def recall_at_kept(inside: FloatArray, outside: FloatArray, kept: float = 0.95) -> float:
    """Share of rows outside that fall below the score which `kept` of those inside reach."""
    return float((outside < np.quantile(inside, 1 - kept)).mean())


@dataclass(frozen=True, slots=True)
class Reliability:
    """Confidence against truth in bins of equal width.

    Attributes:
        confidence: Mean score of each occupied bin.
        accuracy: Share of true entries of each.
        rows: Entries of each.
        chance: Error that a head whose scores are exactly right stays below on so many entries, 19 times of 20.
    """

    confidence: FloatArray
    accuracy: FloatArray
    rows: NDArray[np.int64]
    chance: float = 0.0

    @property
    def error(self) -> float:
        """Expected calibration error: mean gap, weighted by entries."""
        return float((np.abs(self.confidence - self.accuracy) * self.rows).sum() / max(self.rows.sum(), 1))


CHANCE_DRAWS = 200


def reliability(scores: FloatArray, true: BoolArray, num_bins: int = 15) -> Reliability:
    """Bin scores `[entries]` in 0..1 with whether each claim was true."""
    bins = _bins(scores, true, num_bins)
    rng = np.random.default_rng(0)
    draws = [_bins(scores, rng.random(scores.shape) < scores, num_bins).error for _ in range(CHANCE_DRAWS)]
    return replace(bins, chance=float(np.quantile(draws, 0.95)) if len(scores) else 0.0)


def _bins(scores: FloatArray, true: BoolArray, num_bins: int) -> Reliability:
    place = np.minimum((scores * num_bins).astype(int), num_bins - 1)
    rows = np.bincount(place, minlength=num_bins)
    used = rows > 0
    confidence = np.bincount(place, scores, num_bins)[used] / rows[used]
    accuracy = np.bincount(place, true.astype(float), num_bins)[used] / rows[used]
    return Reliability(confidence.astype(np.float32), accuracy.astype(np.float32), rows[used].astype(np.int64))
