"""Two readings of one head: each kind of text is read by its own, and the gate tells the kinds apart."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the extra `train`")

import torch

from inference.export.experts import Experts
from inference.training.experts import ask, fit_experts, layers_averaged, means_of, weighed
from inference.training.linear import fit_linear, logits
from inference.training.states import TokenStates
from inference.training.tasks import SENTIMENTS, TASKS, Examples, FloatArray

WIDTH = 8


def made_up(seed: int, number: int) -> tuple[FloatArray, Examples]:
    """Rows whose first column tells their source, and whose other columns mean the opposite in the other source."""
    rng = np.random.default_rng(seed)
    mood = rng.integers(0, 3, number)
    is_first = rng.random(number) < 0.5
    means = rng.normal(0, 0.3, (number, WIDTH)).astype(np.float32)
    means[:, 0] = np.where(is_first, 1, -1)
    means[np.arange(number), 1 + np.where(is_first, mood, 2 - mood)] += 1
    targets = np.eye(3, dtype=np.float32)[mood]
    sources = tuple("meld" if first else "tweeteval" for first in is_first)
    task = next(task for task in TASKS if task.name == "sentiment")
    names, empty = tuple(map(str, range(number))), ("",) * number
    return means, Examples(task, SENTIMENTS, names, targets, np.ones_like(targets), names, sources, empty, empty)


def accuracy(values: FloatArray, rows: Examples) -> float:
    return float((values.argmax(1) == rows.targets.argmax(1)).mean())


def test_each_kind_of_text_is_read_by_its_own_expert_and_the_mix_is_no_worse() -> None:
    torch.set_num_threads(1)
    (means, rows), (held_means, held), (new_means, new) = made_up(0, 600), made_up(1, 200), made_up(2, 300)
    one = fit_linear(means, rows.targets, softmax=True, strength=1.0)
    experts = fit_experts(means, rows, np.ones(len(rows), np.float32), "meld")
    assert experts.num_labels == 3
    alone = accuracy(ask(new_means, experts), new)
    assert alone > 0.85 > accuracy(logits(new_means, one), new) + 0.1
    scaled = weighed(experts, logits(held_means, one), ask(held_means, experts), held.targets)
    np.testing.assert_array_equal(scaled.weight[-1], experts.weight[-1])  # whose text it is does not change
    assert accuracy(logits(new_means, one) + ask(new_means, scaled), new) > alone - 0.03


def test_experts_that_know_nothing_are_left_out() -> None:
    torch.set_num_threads(1)
    held_means, held = made_up(1, 200)
    noise = Experts(np.random.default_rng(0).normal(size=(7, WIDTH)).astype(np.float32), np.zeros(7, np.float32))
    right = np.asarray(8 * held.targets + np.random.default_rng(1).normal(size=held.targets.shape), np.float32)
    scaled = weighed(noise, right, ask(held_means, noise), held.targets)
    assert np.abs(ask(held_means, scaled)).max() < 1.5


def test_means_are_of_each_text_and_every_layer_has_length_one() -> None:
    rng = np.random.default_rng(0)
    states = TokenStates(rng.normal(size=(7, 2 * WIDTH)).astype(np.float32), np.array([0, 3, 4, 7]))
    means = means_of(states, 2)
    for row, (start, end) in enumerate(((0, 3), (3, 4), (4, 7))):
        for layer in (slice(0, WIDTH), slice(WIDTH, 2 * WIDTH)):
            mean = states.values[start:end, layer].mean(0)
            np.testing.assert_allclose(means[row, layer], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize(("num_layers", "layers"), [(6, (3, 4)), (3, (1, 2)), (2, (1, 2)), (1, (1,))])
def test_the_layers_in_the_middle_are_averaged(num_layers: int, layers: tuple[int, ...]) -> None:
    assert layers_averaged(num_layers) == layers
