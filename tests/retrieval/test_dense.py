"""The graph of a large base finds what an exact search finds, within what the viewer may see."""

import numpy as np
import pytest

from retrieval import dense
from retrieval.dense import MAX_FLAT_PASSAGES, DenseIndex, kind_for, write_dense

NUM, DIMS = 6_000, 384


def clustered(rng: np.random.Generator, num: int) -> np.ndarray:
    """Vectors as passages have them: topics, and sayings of the same topic near each other."""
    topics = rng.normal(size=(num // 20, DIMS))
    vectors = topics[rng.integers(len(topics), size=num)] + 0.7 * rng.normal(size=(num, DIMS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DenseIndex:
    folder = tmp_path_factory.mktemp("index")
    write_dense(folder, clustered(np.random.default_rng(3), NUM), "hnsw")
    return DenseIndex.load(folder, "hnsw", NUM, DIMS)


def queries(index: DenseIndex) -> np.ndarray:
    rng = np.random.default_rng(4)
    near = index.vectors[rng.integers(NUM, size=60)] + 0.04 * rng.normal(size=(60, DIMS))
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)


def test_the_kind_is_chosen_by_size() -> None:
    assert (kind_for(MAX_FLAT_PASSAGES), kind_for(MAX_FLAT_PASSAGES + 1)) == ("flat", "hnsw")


def test_the_graph_finds_what_exact_search_finds(index: DenseIndex) -> None:
    hits = 0
    for query in queries(index):
        exact = np.argsort(-(index.vectors @ query))[:10]
        hits += len(np.intersect1d(exact, index.candidates(query[None], None, 64)))
    assert hits / (60 * 10) >= 0.98


def test_a_filter_is_applied_before_the_search(index: DenseIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = np.random.default_rng(5).random(NUM) < 0.5
    inside = np.flatnonzero(allowed)
    # Few are searched exactly ...
    np.testing.assert_array_equal(index.candidates(queries(index)[:1], allowed, 64), inside)
    # ... many through the graph, which gives nothing that is not allowed, and finds the rest.
    monkeypatch.setattr(dense, "MAX_EXACT_SHARE_PASSAGES", 100)
    hits = 0
    for query in queries(index):
        found = index.candidates(query[None], allowed, 64)
        assert allowed[found].all()
        hits += len(np.intersect1d(inside[np.argsort(-(index.vectors[inside] @ query))[:10]], found))
    assert hits / (60 * 10) >= 0.98
