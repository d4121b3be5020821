"""Pooled vectors of texts, computed once and kept on disk, so that a resumed run starts where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inference.training.features import Runner
from inference.training.tasks import FloatArray

_KEY_BYTES = 16


class VectorStore:
    """Embeds each text once. Not shared between threads.

    Args:
        runner: Encoder that embeds.
        file: Where vectors are kept under their texts' digests, `.npz`; belongs to exactly this encoder.
    """

    def __init__(self, runner: Runner, file: Path) -> None:
        self._runner = runner
        self._file = file
        self._rows: dict[bytes, int] = {}
        self._vectors: list[FloatArray] = []
        if file.is_file():
            with np.load(file) as kept:
                self._rows = {key.tobytes(): row for row, key in enumerate(kept["keys"])}
                self._vectors = [kept["vectors"]]

    def embed(self, texts: Sequence[str], title: str = "") -> FloatArray:
        """Return `[rows, dims] float32`; new texts are embedded and kept."""
        keys = [_key(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._rows}
        if missing:
            first = len(self._rows)
            self._rows |= {key: first + place for place, key in enumerate(missing)}
            self._vectors = [np.concatenate([*self._vectors, self._runner.embed(list(missing.values()), title)])]
            self._save()
        return np.asarray(self._vectors[0][[self._rows[key] for key in keys]], np.float32)

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial.npz")
        keys = np.frombuffer(b"".join(self._rows), np.uint8).reshape(len(self._rows), _KEY_BYTES)
        np.savez(partial, keys=keys, vectors=self._vectors[0])
        partial.replace(self._file)


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).digest()
