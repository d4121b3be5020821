"""Pooled vectors of texts, computed once and kept on disk, so that a resumed run starts where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inference.training.features import Runner
from inference.training.tasks import FloatArray


class VectorStore:
    """Embeds each text once. Not shared between threads.

    Args:
        runner: Encoder that embeds.
        file: Where vectors are kept, `.npz`; belongs to exactly this encoder.
    """

    def __init__(self, runner: Runner, file: Path) -> None:
        self._runner = runner
        self._file = file
        self._rows: dict[str, int] = {}
        self._vectors: list[FloatArray] = []
        if file.is_file():
            with np.load(file) as kept:
                self._rows = {str(text): row for row, text in enumerate(kept["texts"])}
                self._vectors = [kept["vectors"]]

    def embed(self, texts: Sequence[str], title: str = "") -> FloatArray:
        """Return `[rows, dims] float32`; new texts are embedded and kept."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if missing:
            first = len(self._rows)
            self._rows |= {text: first + place for place, text in enumerate(missing)}
            self._vectors = [np.concatenate([*self._vectors, self._runner.embed(missing, title)])]
            self._save()
        return np.asarray(self._vectors[0][[self._rows[text] for text in texts]], np.float32)

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial.npz")
        np.savez(partial, texts=np.array(list(self._rows), dtype=np.str_), vectors=self._vectors[0])
        partial.replace(self._file)
