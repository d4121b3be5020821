from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.prototypes import PrototypeBook, PrototypeStack, make_prototypes
from inference.request import EmbeddingArray, PrototypeSet


def unit(rng: np.random.Generator, rows: int, dims: int = 8) -> EmbeddingArray:
    vectors = rng.normal(size=(rows, dims)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def tenant(name: str, seed: int, sizes: list[int], threshold: float = 0.2) -> PrototypeSet:
    phrases = {f"{name}.{i}": [f"{name}.{i} phrase {j}" for j in range(size)] for i, size in enumerate(sizes)}
    return make_prototypes(
        name, phrases, dict.fromkeys(phrases, threshold), unit(np.random.default_rng(seed), sum(sizes))
    )


def by_hand(embedding: EmbeddingArray, prototypes: PrototypeSet) -> list[dict[str, object]]:
    found = []
    for label, name in enumerate(prototypes.labels):
        own = np.flatnonzero(prototypes.label_of == label)
        if own.size:
            scores = prototypes.vectors[own] @ embedding
            if scores.max() >= prototypes.thresholds[label]:
                phrase = prototypes.phrases[own[scores.argmax()]]
                found.append({"label": name, "score": pytest.approx(scores.max(), abs=1e-6), "phrase": phrase})
    return sorted(found, key=lambda claim: -claim["score"].expected)  # type: ignore[attr-defined]


@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5), min_size=1, max_size=6),
    st.integers(1, 9),
    st.integers(0, 1000),
)
def test_each_row_sees_its_own_tenant_as_if_it_were_alone(sizes: list[list[int]], rows: int, seed: int) -> None:
    sets = [tenant(f"t{i}", seed + i, each) for i, each in enumerate(sizes)]
    embeddings = unit(np.random.default_rng(seed), rows)
    reading = PrototypeStack(sets).compare(embeddings)
    for row in range(rows):
        prototypes = sets[row % len(sets)]
        value, score = reading.value(row, prototypes)
        assert value == by_hand(embeddings[row], prototypes)
        assert score == (value[0]["score"] if value else None)


def test_labels_of_one_vector_tell_their_own_phrases() -> None:
    vector = unit(np.random.default_rng(0), 1)
    phrases = {"a": ["of a"], "b": ["of b"]}
    prototypes = make_prototypes("t", phrases, dict.fromkeys(phrases, 0.5), np.repeat(vector, 2, axis=0))
    value, _ = PrototypeStack([prototypes]).compare(vector).value(0, prototypes)
    assert [(claim["label"], claim["phrase"]) for claim in value] == [("a", "of a"), ("b", "of b")]


def test_phrases_need_not_be_sorted_by_label_and_a_label_may_have_none() -> None:
    rng = np.random.default_rng(0)
    prototypes = PrototypeSet(
        name="t",
        labels=("a", "empty", "b"),
        thresholds=np.array([-1.0, -1.0, -1.0], np.float32),
        phrases=("b1", "a1", "b2", "a2"),
        vectors=unit(rng, 4),
        label_of=np.array([2, 0, 2, 0], np.int32),
    )
    embeddings = unit(rng, 1)
    value, _ = PrototypeStack([prototypes]).compare(embeddings).value(0, prototypes)
    assert value == by_hand(embeddings[0], prototypes)
    assert {claim["label"] for claim in value} == {"a", "b"}


def test_a_set_without_labels_claims_nothing() -> None:
    empty = make_prototypes("t", {}, {}, np.empty((0, 8), np.float32))
    reading = PrototypeStack([empty]).compare(unit(np.random.default_rng(0), 2))
    assert reading.value(1, empty) == ([], None)


def test_the_book_keeps_tenants_until_it_is_full_and_then_starts_afresh() -> None:
    book = PrototypeBook()
    embeddings = unit(np.random.default_rng(0), 1)
    first, second, huge = tenant("a", 1, [3]), tenant("b", 2, [3]), tenant("c", 3, [4000])
    book.compare(embeddings, [first])
    assert book.compare(embeddings, [second]).holds(first)
    reading = book.compare(embeddings, [huge])
    assert reading.holds(huge)
    assert not reading.holds(first)


def test_a_new_set_of_an_old_name_replaces_nothing_by_accident() -> None:
    book = PrototypeBook()
    embeddings = unit(np.random.default_rng(0), 1)
    old, new = tenant("a", 1, [3], -1.0), tenant("a", 2, [3], -1.0)
    book.compare(embeddings, [old])
    value, _ = book.compare(embeddings, [new]).value(0, new)
    assert value == by_hand(embeddings[0], new)


def test_wrong_shapes_are_refused() -> None:
    vectors = unit(np.random.default_rng(0), 2)
    with pytest.raises(ValueError, match="needs a phrase"):
        make_prototypes("t", {"a": []}, {"a": 0.5}, vectors)
    with pytest.raises(ValueError, match="has 1 phrases"):
        make_prototypes("t", {"a": ["x"]}, {"a": 0.5}, vectors)


def test_an_embedding_that_is_no_number_fails_its_own_row() -> None:
    prototypes = tenant("shop", 1, [2, 3])
    embeddings = unit(np.random.default_rng(2), 2)
    alone = PrototypeBook().compare(embeddings[1:], [prototypes]).value(0, prototypes)
    embeddings[0, 3] = np.nan
    reading = PrototypeBook().compare(embeddings, [prototypes])
    with pytest.raises(ValueError, match="not finite"):
        reading.value(0, prototypes)
    assert reading.value(1, prototypes) == alone
