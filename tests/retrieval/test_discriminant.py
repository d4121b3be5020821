import numpy as np

from retrieval.discriminant import Discriminant


def around(rng: np.random.Generator, mean: np.ndarray, num: int) -> np.ndarray:
    vectors = mean + rng.normal(0, 0.3, (num, len(mean)))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_tells_kinds_apart_it_has_not_seen_however_many_examples_each_has() -> None:
    rng = np.random.default_rng(3)
    mine, theirs = np.eye(16)[0], np.eye(16)[1]
    rule = Discriminant.fit(around(rng, mine, 300), around(rng, theirs, 15))
    assert (rule(around(rng, mine, 200)) > 0).mean() > 0.95
    assert (rule(around(rng, theirs, 200)) < 0).mean() > 0.95
