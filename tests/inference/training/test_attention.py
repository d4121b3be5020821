"""Heads that read the tokens: what a mean blurs they find, and held-out rows weigh them against the linear head."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the extra `train`")

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from inference.training.attention import fit_reader, layers_read, mix, read
from inference.training.linear import fit_linear, logits
from inference.training.metrics import count
from inference.training.states import StateRunner, TokenStates
from inference.training.tasks import TASKS, Examples, FloatArray
from tests.inference.export.tiny_bert import DIMS, WORDS, reference_states, tiny_encoder

LABELS, WIDTH = 3, 12


def made_up(seed: int, number: int) -> tuple[TokenStates, Examples]:
    """Rows of up to 12 tokens of noise; a label is true where one token points its way."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 13, number)
    starts = np.cumsum([0, *lengths])
    values = rng.normal(0, 0.6, (starts[-1], 2 * WIDTH)).astype(np.float32)
    targets = (rng.random((number, LABELS)) < 0.3).astype(np.float32)
    for row, label in zip(*np.nonzero(targets), strict=True):
        values[rng.integers(starts[row], starts[row + 1]), label] = 3
    task = next(task for task in TASKS if task.name == "intent_modular")
    names, empty = tuple(map(str, range(number))), ("",) * number
    labels = tuple(map(str, range(LABELS)))
    rows = Examples(task, labels, names, targets, np.ones_like(targets), names, empty, empty, empty)
    return TokenStates(values, starts), rows


def means(states: TokenStates) -> FloatArray:
    sums = np.add.reduceat(states.values, states.starts[:-1])
    return np.asarray(sums / np.diff(states.starts)[:, None], np.float32)


def f1(values: FloatArray, rows: Examples) -> float:
    return count(values > 0, rows.targets > 0.5).micro_f1


def test_a_label_is_found_in_its_own_token_and_mixed_with_the_mean() -> None:
    torch.set_num_threads(1)
    (states, rows), (held_states, held), (new_states, new) = made_up(0, 400), made_up(1, 150), made_up(2, 300)
    reader = fit_reader(states, rows, 2)
    assert reader.attention.query.shape == (2, LABELS, WIDTH)
    plain = fit_linear(means(states), rows.targets, softmax=False, strength=20.0)
    alone = f1(read(new_states, reader), new)
    assert alone > f1(logits(means(new_states), plain), new) + 0.03
    head, attention = mix(plain, reader, means(held_states), held_states, held)
    together = logits(means(new_states), head) + read(new_states, type(reader)(attention, np.zeros(LABELS, np.float32)))
    assert f1(together, new) > alone - 0.02
    again = fit_reader(states, rows, 2)
    np.testing.assert_array_equal(again.attention.value, reader.attention.value)


def test_a_head_that_knows_nothing_is_not_mixed_in() -> None:
    torch.set_num_threads(1)
    (states, rows), (held_states, held) = made_up(0, 200), made_up(1, 150)
    reader = fit_reader(states, rows, 2)
    rng = np.random.default_rng(3)
    noise = fit_linear(means(states), rows.targets[rng.permutation(len(rows))], softmax=False, strength=20.0)
    head, attention = mix(noise, reader, means(held_states), held_states, held)
    spoilt = np.std(means(held_states) @ head.weight.T)
    told = np.std(read(held_states, type(reader)(attention, np.zeros(LABELS, np.float32))))
    assert spoilt < 0.2 * told


def test_states_are_those_of_each_text_alone() -> None:
    words = {f"w{number}": number for number in range(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    rows = [[7, 3, 9, 4], [1], [], [5, 6]]
    encoder = tiny_encoder()
    states = StateRunner(encoder, (1, 2), tokenizer).run([" ".join(f"w{i}" for i in row) for row in rows])
    assert states.starts.tolist() == [0, 4, 5, 5, 7]
    assert states.owners.tolist() == [0, 0, 0, 0, 1, 3, 3]
    for row, (start, end) in zip(rows, zip(states.starts, states.starts[1:], strict=False), strict=True):
        if row:
            expected = np.concatenate(reference_states(encoder, row), axis=1)
            assert expected.shape == (len(row), 2 * DIMS)
            np.testing.assert_allclose(states.values[start:end], expected, atol=1e-4)


@pytest.mark.parametrize(("num_layers", "layers"), [(6, (4, 5)), (3, (1, 2)), (2, (1,)), (1, (1,))])
def test_the_layers_below_the_last_are_read(num_layers: int, layers: tuple[int, ...]) -> None:
    assert layers_read(num_layers) == layers
