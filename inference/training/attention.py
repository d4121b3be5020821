"""Fits what heads read among the tokens: full batch and without chance, so the same data gives the same weights.

states below the last layer ─▶ queries and values of each label ─▶ mixed with the linear head on held-out rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from inference.export.attention import Attention
from inference.export.heads import Linear
from inference.training.linear import fit_linear, logits
from inference.training.states import TokenStates
from inference.training.tasks import Examples, FloatArray

READS_TOKENS = ("intent_modular",)
"""Tasks whose heads do: several labels are true of a sentence there, each in a few of its words. Banking77, one label a
sentence, gains nothing."""

VALUE_STRENGTH = 8.0
QUERY_STRENGTH = 2.0
"""Inverse L2 penalties, every row read in three forms. Thrice as much, or a third, is the same but for chance."""

MAX_STEPS = 80

States = Callable[[Sequence[str], str], TokenStates]
"""Texts and a title for the progress bar in."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Attention of a head with the constant that it was fitted with, before it is mixed with the linear head."""

    attention: Attention
    bias: FloatArray


def layers_read(num_layers: int) -> tuple[int, ...]:
    """Name the layers whose states are read: the two below the last, which knows the training rows by heart."""
    return tuple(range(max(1, num_layers - 2), max(2, num_layers)))


def fit_reader(states: TokenStates, rows: Examples, num_layers: int) -> Reader:
    """Fit queries and values of a head's labels by L-BFGS, from the plain mean over the tokens.

    Args:
        states: Of the rows' texts.
        rows: Of a task of binary labels.
        num_layers: Whose states lie side by side.
    """
    scale = 1 / float(np.sqrt(np.square(states.values).sum(1).mean()))
    x = torch.from_numpy(states.values) * scale
    y, known = torch.from_numpy(rows.targets), torch.from_numpy(rows.mask)
    query, value = (torch.zeros(y.shape[1], x.shape[1], requires_grad=True) for _ in range(2))
    bias = torch.zeros(y.shape[1], requires_grad=True)
    parameters = [query, value, bias]
    optimizer = torch.optim.LBFGS(parameters, max_iter=MAX_STEPS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        values = _read(x, states, query, value) + bias
        losses = torch.nn.functional.binary_cross_entropy_with_logits(values, y, reduction="none") * known
        penalty = value.square().sum() / (2 * VALUE_STRENGTH) + query.square().sum() / (2 * QUERY_STRENGTH)
        loss = (losses.sum() + penalty) / len(y)
        loss.backward()
        return loss

    optimizer.step(closure)
    parts = [
        (part.detach().numpy() * scale).reshape(len(part), num_layers, -1).transpose(1, 0, 2) for part in (query, value)
    ]
    return Reader(Attention(*(part.astype(np.float32) for part in parts)), bias.detach().numpy())


def read(states: TokenStates, reader: Reader) -> FloatArray:
    """Return the logits of a reader alone, `[texts, labels] float32`."""
    query, value = (
        torch.from_numpy(np.concatenate(list(part), axis=1))
        for part in (reader.attention.query, reader.attention.value)
    )
    return np.asarray(_read(torch.from_numpy(states.values), states, query, value).numpy() + reader.bias, np.float32)


def mix(
    head: Linear, reader: Reader, features: FloatArray, states: TokenStates, rows: Examples
) -> tuple[Linear, Attention]:
    """Weigh the linear head and the reader against each other, so that their logits can be added.

    Args:
        head: Of the task.
        reader: Of the task.
        features: `[rows, dims] float32`, of rows that neither has learned from.
        states: Of the same rows.
        rows: Their targets.

    Returns:
        Both scaled.
    """
    views = np.stack([logits(features, head).ravel(), read(states, reader).ravel()], 1)
    found = fit_linear(views, rows.targets.reshape(-1, 1), mask=rows.mask.reshape(-1, 1), softmax=False, strength=1e4)
    (plain, read_weight), constant = found.weight[0], found.bias[0]
    bias = plain * head.bias + read_weight * reader.bias + constant
    attention = Attention(reader.attention.query, read_weight * reader.attention.value)
    return Linear(plain * head.weight, bias.astype(np.float32)), attention


def _read(x: torch.Tensor, states: TokenStates, query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Sum the values of each text's tokens, weighted by the softmax of its queries."""
    looks, owners = x @ query.T, torch.from_numpy(states.owners)
    # The softmax does not depend on what is taken from its exponents: no gradient flows through the maximum.
    greatest = np.maximum.reduceat(looks.detach().numpy(), states.starts[:-1])
    shares = (looks - torch.from_numpy(greatest)[owners]).exp()
    zeros = torch.zeros(len(states.starts) - 1, len(query))
    told = zeros.index_add(0, owners, shares * (x @ value.T))
    return told / zeros.index_add(0, owners, shares)
