"""What a turn hands on: learned of what the head misses, and added where something was said before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from inference.export.heads import CARRY, Linear
from inference.training.context import fit_carry, logits_in_context
from inference.training.linear import fit_linear, logits
from inference.training.tasks import TASKS, Examples

VECTORS = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
(TASK,) = (task for task in TASKS if task.name == "dissatisfied")


def embed(texts: Sequence[str], title: str = "") -> np.ndarray:
    """Texts are numbers of vectors; nobody embeds nothing."""
    return VECTORS[[int(text) for text in texts]]


@pytest.fixture
def rows() -> Examples:
    """Half of the truth is in the turn, half in the one before it; every fourth turn begins a dialogue."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    now, before = rng.integers(0, 40, (2, 400))
    first = np.arange(400) % 4 == 0
    targets = (VECTORS[now, 0] + np.where(first, 0, 2 * VECTORS[before, 1]) > 0).astype(np.float32)[:, None]
    return Examples(
        task=TASK,
        labels=("dissatisfied",),
        texts=tuple(map(str, now)),
        targets=targets,
        mask=np.ones_like(targets),
        groups=tuple(map(str, range(400))),
        sources=("made",) * 400,
        speakers=("customer",) * 400,
        before=tuple("" if alone else str(number) for alone, number in zip(first, before, strict=True)),
    )


def test_the_turn_before_tells_what_the_head_alone_cannot_know(rows: Examples) -> None:
    head = fit_linear(embed(rows.texts), rows.targets, softmax=False, strength=10.0)
    carry = fit_carry(rows, embed, head, 10.0)

    def run(texts: Sequence[str], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        (name,) = outputs
        handed = np.hstack(
            [np.full((len(texts), 1), 99, np.float32), logits(embed(texts), carry)]
        )  # another task's first
        return {name: handed if name == CARRY else logits(embed(texts), head)}

    def accuracy(values: np.ndarray) -> float:
        return float(((values > 0) == (rows.targets > 0)).mean())

    in_context = logits_in_context(rows, run, 1)
    alone = logits_in_context(rows.alone(), run, 1)
    np.testing.assert_array_equal(alone, logits(embed(rows.texts), head))
    first = [not text for text in rows.before]
    np.testing.assert_array_equal(in_context[first], alone[first])
    assert accuracy(in_context) > accuracy(alone) + 0.15


def test_where_nothing_was_said_before_nothing_is_learned(rows: Examples) -> None:
    head = fit_linear(embed(rows.texts), rows.targets, softmax=False, strength=10.0)
    carry = fit_carry(rows.alone(), embed, head, 10.0)
    assert not carry.weight.any()
    assert not carry.bias.any()


def test_an_offset_that_says_everything_leaves_nothing_to_learn(rows: Examples) -> None:
    sure = Linear(np.zeros((1, 8), np.float32), np.zeros(1, np.float32))
    given = 50 * (2 * rows.targets - 1)
    head = fit_linear(embed(rows.texts), rows.targets, offset=given, softmax=False, strength=10.0)
    np.testing.assert_allclose(head.weight, sure.weight, atol=1e-3)
