"""The scan of a large base finds what an exact search finds, within what the viewer may see."""

from pathlib import Path

import numpy as np
import pytest

from retrieval.dense import MAX_FLAT_PASSAGES, MIN_SCANNED_PASSAGES, DenseIndex, kind_for, write_dense

NUM, DIMS = 3_000, 128


def clustered(rng: np.random.Generator, num: int) -> np.ndarray:
    """Vectors as passages have them: topics, and sayings of the same topic near each other."""
    topics = rng.normal(size=(num // 20, DIMS))
    vectors = topics[rng.integers(len(topics), size=num)] + 0.7 * rng.normal(size=(num, DIMS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


GROUP_OF = np.random.default_rng(5).integers(2, size=NUM).astype(np.int32)
GROUP_OF[: MIN_SCANNED_PASSAGES // 2] = 2
"""Two audiences of many passages, and one of few."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DenseIndex:
    folder = tmp_path_factory.mktemp("index")
    write_dense(folder, clustered(np.random.default_rng(3), NUM), "scan", GROUP_OF)
    return DenseIndex.load(folder, "scan", DIMS, GROUP_OF)


def queries(index: DenseIndex) -> np.ndarray:
    rng = np.random.default_rng(4)
    near = index.vectors[rng.integers(NUM, size=60)] + 0.04 * rng.normal(size=(60, DIMS))
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)


def test_the_kind_is_chosen_by_size() -> None:
    assert (kind_for(MAX_FLAT_PASSAGES), kind_for(MAX_FLAT_PASSAGES + 1)) == ("flat", "scan")


def recall(index: DenseIndex, asked: np.ndarray, allowed: np.ndarray | None) -> float:
    inside = np.arange(NUM) if allowed is None else np.flatnonzero(allowed)
    hits = 0
    for query in asked:
        found = index.candidates(query[None], allowed, 64)
        assert np.isin(found, inside).all()
        hits += len(np.intersect1d(inside[np.argsort(-(index.vectors[inside] @ query))[:10]], found))
    return hits / (10 * len(asked))


def test_the_scan_finds_what_exact_search_finds(index: DenseIndex) -> None:
    assert recall(index, queries(index), None) >= 0.98


def test_questions_unlike_any_passage_find_theirs_too(index: DenseIndex) -> None:
    assert recall(index, clustered(np.random.default_rng(6), 60), None) >= 0.98


@pytest.mark.parametrize("groups", [(0,), (1, 2), (2,), ()])
def test_a_filter_is_applied_before_the_search(index: DenseIndex, groups: tuple[int, ...]) -> None:
    allowed = np.isin(GROUP_OF, groups)
    if groups:
        assert recall(index, queries(index), allowed) >= 0.98
    else:
        assert not len(index.candidates(queries(index), allowed, 64))


def test_a_flat_index_takes_all_that_is_allowed(tmp_path: Path) -> None:
    write_dense(tmp_path, clustered(np.random.default_rng(3), 40), "flat", np.zeros(40, np.int32))
    index = DenseIndex.load(tmp_path, "flat", DIMS, np.zeros(40, np.int32))
    allowed = np.arange(40) % 2 == 0
    assert index.candidates(index.vectors[:1], None, 4).tolist() == list(range(40))
    assert index.candidates(index.vectors[:1], allowed, 4).tolist() == list(range(0, 40, 2))


def test_a_scan_of_another_base_is_noticed(tmp_path: Path) -> None:
    write_dense(tmp_path, clustered(np.random.default_rng(3), 1200), "scan", np.zeros(1200, np.int32))
    with pytest.raises(ValueError, match="fits no group"):
        DenseIndex.load(tmp_path, "scan", DIMS, (np.arange(1200) % 2).astype(np.int32))
