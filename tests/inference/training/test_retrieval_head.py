"""The head learns what tells neighbours apart, and starts as what it is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the extra `train`")

from inference.training.retrieval_head import PackedTask, Settings, States, fit_retrieval
from inference.training.search_task import SearchTask

DIMS = 16
WORDS = {word: number for number, word in enumerate([*"abcdefgh", "filler"])}
SETTINGS = Settings(layers=1, epochs=100, bases=1, rate=1e-2, query_rate=3e-2, dropout=0.0, held=0.02)


def states_of(texts: Sequence[str]) -> list[States]:
    """A state a word: which one it is, drowned in what all words share."""
    rows = np.random.default_rng(0).normal(size=(len(WORDS), DIMS)).astype(np.float32) / 4
    rows[WORDS["filler"]] *= 2
    return [np.array([rows[WORDS[word]] for word in text.split()], np.float32) for text in texts]


def task(pairs: Sequence[tuple[str, str]]) -> SearchTask:
    """One passage a part; the question's word is another than that of the passage that answers."""
    num = len(pairs)
    return SearchTask(
        name="made up",
        passages=tuple(f"filler {passage} filler" for _, passage in pairs),
        part_of=np.arange(num),
        parts=tuple((passage,) for _, passage in pairs),
        measures=(0.7, 0.3),
        texts=tuple(f"filler filler {question}" for question, _ in pairs),
        shares=np.eye(num, dtype=np.float32),
        last=np.arange(num),
        lexical=np.zeros((num, num), np.float32),
        answers=np.arange(num),
        off_topic=("filler filler",),
        off_topic_lexical=np.zeros((1, num), np.float32),
    )


def test_a_head_that_learns_nothing_is_the_projection_of_the_mean() -> None:
    projection = np.random.default_rng(1).normal(size=(DIMS, DIMS)).astype(np.float32)
    packed = PackedTask(task([("a", "b"), ("c", "d")]), states_of)
    head = fit_retrieval([packed], projection, replace(SETTINGS, epochs=0))
    mean = np.stack([states.mean(0) for states in states_of(packed.task.texts)])
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True) @ projection.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(head(packed.texts).detach().numpy(), expected, atol=1e-3)


@pytest.mark.slow
def test_it_finds_what_the_start_does_not_and_looks_away_from_fillers() -> None:
    pairs = [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")]
    packed, start = PackedTask(task(pairs), states_of), np.eye(DIMS, dtype=np.float32)
    before = packed.rank(fit_retrieval([packed], start, replace(SETTINGS, epochs=0)))
    head = fit_retrieval([packed], start, SETTINGS)
    assert before.max() > 0
    assert packed.rank(head).tolist() == [0, 0, 0, 0]
    states = {word: states_of([word])[0][0] @ head.export().query[0] for word in WORDS}
    assert min(states, key=lambda word: states[word]) == "filler"


def test_the_same_seed_gives_the_same_weights() -> None:
    packed = PackedTask(task([("a", "b"), ("c", "d")]), states_of)
    settings = replace(SETTINGS, epochs=3, dropout=0.2)
    first, again = (fit_retrieval([packed], np.eye(DIMS, dtype=np.float32), settings).export() for _ in range(2))
    np.testing.assert_array_equal(first.projection, again.projection)
    np.testing.assert_array_equal(first.query, again.query)
