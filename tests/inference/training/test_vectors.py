from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inference.training.vectors import VectorStore


class Counter:
    """Embeds a text as its length, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str], title: str = "") -> np.ndarray:
        self.asked += texts
        return np.array([[len(text), 1] for text in texts], np.float32)


def test_each_text_is_embedded_once_even_over_a_restart(tmp_path: Path) -> None:
    runner, file = Counter(), tmp_path / "deep" / "vectors.npz"
    store = VectorStore(runner, file)  # type: ignore[arg-type]
    assert store.embed(["bb", "a", "bb"])[:, 0].tolist() == [2, 1, 2]
    again = VectorStore(runner, file)  # type: ignore[arg-type]
    assert again.embed(["a", "cccc", "", "bb"])[:, 0].tolist() == [1, 4, 0, 2]
    assert runner.asked == ["bb", "a", "cccc", ""]
    assert b"cccc" not in file.read_bytes(), "texts themselves are not kept"
