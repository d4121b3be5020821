from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from inference.export.heads import OpenSet
from inference.training.linear import fit_linear, logits
from inference.training.metrics import auroc, one_hot
from inference.training.open_set import fit_detector, fit_mix, views, whiten

RNG = np.random.default_rng(2)
DIMS, LABELS = 12, 4


def cloud(centres: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    labels = RNG.integers(0, len(centres), rows)
    points = centres[labels] + 0.2 * RNG.normal(size=(rows, DIMS))
    return points.astype(np.float32), labels


def test_whitened_labels_have_unit_covariance() -> None:
    spread = np.diag(np.linspace(0.2, 3, DIMS))
    labels = RNG.integers(0, LABELS, 4000)
    points = (RNG.normal(size=(4000, DIMS)) @ spread + RNG.normal(size=(LABELS, DIMS))[labels]).astype(np.float32)
    projection, centres = whiten(points, labels, shrinkage=1e-6)
    rest = points @ projection - centres[labels]
    np.testing.assert_allclose(np.cov(rest.T), np.eye(DIMS), atol=0.15)


def test_the_mix_tells_strangers_from_known_labels() -> None:
    known, strange = RNG.normal(size=(LABELS, DIMS)), RNG.normal(size=(3, DIMS))
    inside, labels = cloud(known, 600)
    outside, _ = cloud(strange, 200)
    head = fit_linear(inside, one_hot(labels, LABELS).astype(np.float32), softmax=True, strength=10)
    assert (logits(inside, head).argmax(1) == labels).mean() > 0.98
    projection, centres = whiten(inside, labels, 1.0)
    score = OpenSet("intent_logits", projection, centres, fit_detector(inside, outside, 1.0), np.zeros(4, np.float32))
    mix = fit_mix(views(inside, head, score), views(outside, head, score))
    held_inside, _ = cloud(known, 300)
    held_outside, _ = cloud(strange, 300)
    scores = [views(x, head, score) @ mix[:3] + mix[3] for x in (held_inside, held_outside)]
    assert auroc(*scores) > 0.97
    assert np.median(scores[0]) > 0 > np.median(scores[1])


def test_masked_targets_do_not_pull() -> None:
    x = RNG.normal(size=(300, DIMS)).astype(np.float32)
    y = (x[:, :1] > 0).astype(np.float32)
    wrong = np.concatenate([y, 1 - y])
    mask = np.concatenate([np.ones_like(y), np.zeros_like(y)])
    head = fit_linear(np.concatenate([x, x]), wrong, mask=mask, softmax=False, strength=10)
    assert ((logits(x, head) > 0) == (y > 0.5)).mean() > 0.97
