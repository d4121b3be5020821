"""Makes scores probabilities: temperature, bias and thresholds, fitted on rows that no weight has seen.

Targets are 0 and 1 but for a doubt of one row in all, so that rows which happen to be parted perfectly do not push a
scale to infinity. Source: Guo et al., 2017 (temperature scaling); Platt, 1999 (logistic calibration, and the doubt).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from inference.training.tasks import FloatArray

IN_SCOPE_KEPT = 0.95
"""Share of in-scope utterances that the scope threshold must keep."""


@dataclass(frozen=True, slots=True)
class Platt:
    """`score = sigmoid(logit / temperature + bias)`."""

    temperature: float
    bias: float


def sigmoid(x: FloatArray) -> FloatArray:
    """Logistic function without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), np.float32)


def softmax(x: FloatArray) -> FloatArray:
    """Scores that sum to one per row, `[rows, labels] float32`."""
    shifted = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True), np.float32)


def fit_temperature(logits: FloatArray, targets: FloatArray) -> float:
    """Find the temperature with the least negative log-likelihood of a softmax head.

    Args:
        logits: `[rows, labels] float32`.
        targets: `[rows, labels] float32`, one 1 a row.
    """
    doubt = 1 / (len(targets) + 2)
    x, y = torch.from_numpy(logits), torch.from_numpy(targets) * (1 - doubt) + doubt / targets.shape[1]
    log_scale = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = -(torch.log_softmax(x * log_scale.exp(), 1) * y).sum(1).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(np.exp(-log_scale.item()))


def fit_platt(logits: FloatArray, targets: FloatArray, weights: FloatArray | None = None) -> Platt:
    """Find temperature and bias with the least negative log-likelihood of sigmoid scores, over all entries given.

    Args:
        logits: Any shape, float32.
        targets: Same shape, in 0..1.
        weights: Same shape, importance of each entry; None: all one.
    """
    x, y = torch.from_numpy(logits.ravel()), torch.from_numpy(targets.ravel())
    w = torch.ones_like(y) if weights is None else torch.from_numpy(weights.ravel())
    positives, negatives = float((w * y).sum()), float((w * (1 - y)).sum())
    y = y * (positives + 1) / (positives + 2) + (1 - y) / (negatives + 2)
    log_scale, bias = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scaled = x * log_scale.exp() + bias
        losses = torch.nn.functional.binary_cross_entropy_with_logits(scaled, y, reduction="none")
        loss = (losses * w).sum() / w.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return Platt(temperature=float(np.exp(-log_scale.item())), bias=float(bias.item()))


def best_threshold(scores: FloatArray, targets: FloatArray) -> float:
    """Find the score above which claiming gives the best F1 over all entries, between 0.1 and 0.9."""
    flat, truth = scores.ravel(), targets.ravel() > 0.5
    grid = np.linspace(0.1, 0.9, 81)
    total = truth.sum()
    best, best_f1 = 0.5, -1.0
    for threshold in grid:
        claimed = flat >= threshold
        f1 = 2 * (claimed & truth).sum() / max(claimed.sum() + total, 1)
        if f1 > best_f1:
            best, best_f1 = float(threshold), float(f1)
    return round(best, 2)


def keep_threshold(scores: FloatArray, share: float = IN_SCOPE_KEPT) -> float:
    """Find the score that this share of the given rows reaches."""
    return float(np.quantile(scores, 1 - share))
