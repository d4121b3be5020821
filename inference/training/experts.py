"""Fits two readings of a head that learns from two kinds of text, and what tells the two apart.

mean states of the middle layers ─▶ a head a source, a gate from the sources ─▶ weighed against the linear head
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from inference.export.experts import Experts
from inference.export.heads import Linear
from inference.training.calibrate import sigmoid
from inference.training.linear import fit_linear, logits
from inference.training.states import TokenStates
from inference.training.tasks import Examples, FloatArray

HAS_EXPERTS: Mapping[str, str] = {"sentiment": "meld"}
"""Task to the source of its first expert; the second learns from the others. Television dialogue tells feelings in
other words than tweets do: a head of its own gains MELD a point."""

STRENGTH = 0.3
GATE_STRENGTH = 1.0
"""Inverse L2 penalties."""


def layers_averaged(num_layers: int) -> tuple[int, ...]:
    """Name the two layers in the middle: what the last one says of moods, it has learned with the training rows."""
    return tuple(dict.fromkeys((max(1, num_layers // 2), min(num_layers, num_layers // 2 + 1))))


def means_of(states: TokenStates, num_layers: int) -> FloatArray:
    """Average each text's states and make every layer's part of length one, `[texts, layers x dims] float32`."""
    sums = np.add.reduceat(states.values, states.starts[:-1]).reshape(len(states.starts) - 1, num_layers, -1)
    lengths = np.maximum(np.linalg.norm(sums, axis=2, keepdims=True), 1e-12)
    return np.asarray((sums / lengths).reshape(len(sums), -1), np.float32)


def fit_experts(means: FloatArray, rows: Examples, weights: FloatArray, first: str) -> Experts:
    """Fit a head for each kind of text and the gate between them.

    Args:
        means: `[rows, layers x dims] float32`, see `means_of`.
        rows: Of a softmax task.
        weights: `[rows] float32`, importance of each.
        first: Source of the first expert's rows.
    """
    is_first = np.array([source == first for source in rows.sources])
    parts = [
        fit_linear(means[part], rows.targets[part], weights=weights[part], softmax=True, strength=STRENGTH)
        for part in (is_first, ~is_first)
    ]
    gate = fit_linear(means, is_first.astype(np.float32)[:, None], softmax=False, strength=GATE_STRENGTH)
    parts.append(gate)
    return Experts(np.concatenate([part.weight for part in parts]), np.concatenate([part.bias for part in parts]))


def ask(means: FloatArray, experts: Experts) -> FloatArray:
    """Return what the experts say together, `[rows, labels] float32`."""
    said = logits(means, Linear(experts.weight, experts.bias))
    first, second, gate = np.split(said, [experts.num_labels, 2 * experts.num_labels], axis=1)
    return np.asarray(second + sigmoid(gate) * (first - second), np.float32)


def weighed(experts: Experts, given: FloatArray, said: FloatArray, targets: FloatArray) -> Experts:
    """Scale experts so that what they say can be added to a linear head's logits.

    Args:
        experts: As fitted.
        given: `[rows, labels] float32`, the linear head's logits of rows that neither has learned from.
        said: What the experts say of them.
        targets: `[rows, labels] float32`.
    """
    views, y = torch.from_numpy(np.stack([given, said])), torch.from_numpy(targets)
    shares = torch.full((2, 1, 1), 0.5, requires_grad=True)
    optimizer = torch.optim.LBFGS([shares], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = -(torch.log_softmax((views * shares).sum(0), 1) * y).sum(1).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    of_head, of_experts = (max(float(share), 0.0) for share in shares.detach().flatten())
    # The head stays as it is, and the temperature fitted later sees to the scale of the sum.
    scale = np.ones(len(experts.bias), np.float32)
    scale[: 2 * experts.num_labels] = min(of_experts / max(of_head, 1e-3), 10.0)
    return Experts(experts.weight * scale[:, None], experts.bias * scale)
