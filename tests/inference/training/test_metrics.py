"""Against scikit-learn where it is installed, against counting by hand everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from inference.training.metrics import auroc, average_precision, count, one_hot, recall_at_kept, reliability

RNG = np.random.default_rng(0)


def test_counts_by_hand() -> None:
    claimed = np.array([[1, 0], [1, 1], [0, 0]], bool)
    true = np.array([[1, 0], [0, 1], [1, 0]], bool)
    counts = count(claimed, true)
    assert counts.hits.tolist() == [1, 1]
    assert counts.micro_f1 == pytest.approx(2 * 2 / (3 + 3))
    assert counts.f1.tolist() == pytest.approx([0.5, 1.0])
    assert counts.macro_f1 == pytest.approx(0.75)
    assert counts.macro_recall == pytest.approx(0.75)
    assert counts.weighted_f1 == pytest.approx((2 * 0.5 + 1 * 1.0) / 3)


def test_a_label_that_never_occurs_does_not_count_in_the_mean() -> None:
    counts = count(np.zeros((2, 2), bool), np.array([[1, 0], [0, 0]], bool))
    assert counts.macro_recall == 0


def test_one_hot() -> None:
    assert one_hot(np.array([1, 0]), 3).tolist() == [[False, True, False], [True, False, False]]


def test_equal_to_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    scores = np.round(RNG.random(400), 2).astype(np.float32)  # rounded, so that there are ties
    true = RNG.random(400) < scores
    assert auroc(scores[true], scores[~true]) == pytest.approx(sklearn.roc_auc_score(true, scores))
    assert average_precision(scores, true) == pytest.approx(sklearn.average_precision_score(true, scores))
    given, truth = RNG.integers(0, 4, 300), RNG.integers(0, 4, 300)
    counts = count(one_hot(given, 4), one_hot(truth, 4))
    assert counts.macro_f1 == pytest.approx(sklearn.f1_score(truth, given, average="macro"))
    assert counts.weighted_f1 == pytest.approx(sklearn.f1_score(truth, given, average="weighted"))
    assert counts.macro_recall == pytest.approx(sklearn.recall_score(truth, given, average="macro"))


def test_recall_outside_at_the_score_that_keeps_those_inside() -> None:
    inside = np.linspace(0, 1, 101, dtype=np.float32)
    outside = np.array([-1.0, 0.04, 0.06, 0.9], np.float32)
    assert recall_at_kept(inside, outside, 0.95) == pytest.approx(0.5)


def test_a_perfectly_calibrated_score_has_no_error_and_a_boastful_one_has() -> None:
    scores = RNG.random(200_000).astype(np.float32)
    true = RNG.random(200_000) < scores
    assert reliability(scores, true).error < 0.01
    assert reliability(np.full(1000, 0.9, np.float32), np.arange(1000) < 500).error == pytest.approx(0.4, abs=1e-5)
    assert reliability(np.zeros(0, np.float32), np.zeros(0, bool)).error == 0


def test_chance_tells_a_wrong_scale_from_few_rows() -> None:
    scores = np.random.default_rng(1).random(4000).astype(np.float32)
    right = np.random.default_rng(2).random(4000) < scores
    many, few = reliability(scores, right), reliability(scores[:12], right[:12])
    assert many.error <= many.chance < 0.05 < few.chance
    assert reliability(scores**3, right).error > 5 * many.chance
    assert reliability(scores[:0], right[:0]).error == 0
