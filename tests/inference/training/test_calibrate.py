from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from inference.training.calibrate import (
    best_threshold,
    fit_platt,
    fit_temperature,
    keep_threshold,
    sigmoid,
    softmax,
)
from inference.training.metrics import one_hot

RNG = np.random.default_rng(1)


def draw(scores: np.ndarray) -> np.ndarray:
    """Draw one label a row with the given chances."""
    return (RNG.random((len(scores), 1)) < scores.cumsum(1)).argmax(1)


def test_temperature_undoes_a_known_sharpening() -> None:
    logits = RNG.normal(0, 2, (6000, 5)).astype(np.float32)
    targets = one_hot(draw(softmax(logits)), 5).astype(np.float32)
    assert fit_temperature(logits * 3, targets) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits / 2, targets) == pytest.approx(0.5, rel=0.05)


def test_platt_undoes_a_known_scale_and_shift() -> None:
    logits = RNG.normal(0, 2, 20_000).astype(np.float32)
    targets = (RNG.random(20_000) < sigmoid(logits)).astype(np.float32)
    platt = fit_platt(4 * (logits - 1), targets)
    assert platt.temperature == pytest.approx(4, rel=0.05)
    assert platt.bias == pytest.approx(1, abs=0.06)


def test_platt_ignores_entries_without_weight() -> None:
    logits = RNG.normal(0, 2, 5000).astype(np.float32)
    targets = (RNG.random(5000) < sigmoid(logits)).astype(np.float32)
    wrong = np.concatenate([targets, 1 - targets])
    weights = np.concatenate([np.ones_like(targets), np.zeros_like(targets)])
    with_noise = fit_platt(np.concatenate([logits, logits]), wrong, weights)
    assert with_noise.temperature == pytest.approx(fit_platt(logits, targets).temperature, rel=1e-3)


def test_rows_that_are_parted_perfectly_leave_a_doubt() -> None:
    logits = np.repeat([-3.0, 3.0], 20).astype(np.float32)
    platt = fit_platt(logits, (logits > 0).astype(np.float32))
    assert sigmoid(3 / platt.temperature + np.float32(platt.bias)) == pytest.approx(21 / 22, abs=0.01)
    pairs = np.stack([logits, -logits], 1)
    temperature = fit_temperature(pairs, (pairs > 0).astype(np.float32))
    assert 0.9 < softmax(pairs / temperature).max() < 0.999


def test_threshold_parts_what_can_be_parted() -> None:
    scores = np.array([0.1, 0.2, 0.6, 0.7], np.float32)
    threshold = best_threshold(scores, np.array([0, 0, 1, 1], np.float32))
    assert 0.2 < threshold <= 0.6


def test_keep_threshold_keeps_the_share() -> None:
    scores = RNG.random(1000).astype(np.float32)
    assert (scores >= keep_threshold(scores, 0.95)).mean() == pytest.approx(0.95, abs=0.002)


def test_scores_of_huge_logits_stay_finite() -> None:
    assert sigmoid(np.array([-1e4, 1e4], np.float32)).tolist() == [0, 1]
    assert softmax(np.array([[1e4, -1e4]], np.float32)).tolist() == [[1, 0]]
