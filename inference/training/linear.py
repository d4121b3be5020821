"""Fits linear heads over fixed features: convex, full batch, so the same data gives the same head."""

from __future__ import annotations

import numpy as np
import torch

from inference.export.heads import Linear
from inference.training.tasks import FloatArray


def fit_linear(
    features: FloatArray,
    targets: FloatArray,
    *,
    mask: FloatArray | None = None,
    weights: FloatArray | None = None,
    offset: FloatArray | None = None,
    softmax: bool,
    strength: float,
    max_steps: int = 200,
) -> Linear:
    """Fit logistic regression by L-BFGS: multinomial, or one binary problem a label.

    Args:
        features: `[rows, dims] float32`.
        targets: `[rows, labels] float32` in 0..1.
        mask: `[rows, labels] float32`, 1 where the target is known; binary problems only. None: all known.
        weights: `[rows] float32`, importance of each row. None: all one.
        offset: `[rows, labels] float32`, logits that are there already: the head learns what they miss. None: zeros.
        softmax: One label true a row, against any number.
        strength: Inverse of the L2 penalty, as scikit-learn's `C`.
        max_steps: Bound on L-BFGS iterations.

    Returns:
        The head.
    """
    x, y = torch.from_numpy(features), torch.from_numpy(targets)
    known = torch.ones_like(y) if mask is None else torch.from_numpy(mask)
    row_weight = torch.ones(len(x)) if weights is None else torch.from_numpy(weights)
    given = torch.zeros(()) if offset is None else torch.from_numpy(offset)
    weight = torch.zeros(y.shape[1], x.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=max_steps, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=1e-5
    )
    scale = 1.0 / float(row_weight.sum())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = x @ weight.T + bias + given
        if softmax:
            losses = -(torch.log_softmax(logits, 1) * y).sum(1)
        else:
            losses = (torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none") * known).sum(1)
        loss = ((losses * row_weight).sum() + weight.square().sum() / (2 * strength)) * scale
        loss.backward()
        return loss

    optimizer.step(closure)
    return Linear(weight.detach().numpy().astype(np.float32), bias.detach().numpy().astype(np.float32))


def logits(features: FloatArray, head: Linear) -> FloatArray:
    """Apply a head to features `[rows, dims]`."""
    return np.asarray(features @ head.weight.T + head.bias, np.float32)
