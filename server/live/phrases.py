"""Vectors of policies' example phrases, kept beside the data: a start embeds only what changed since the last one.

A cache and nothing more: whatever is wrong with a file, its phrases are embedded again. It holds hashes of phrases, not
the phrases, and exactly those of the policy's last version.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inference.request import EmbeddingArray
from server.orchestrator import Orchestrator

log = logging.getLogger(__name__)

Known = dict[str, EmbeddingArray]
"""Hash of a phrase to its vector, `[dims] float32`."""


class PhraseVectors:
    """Embeds, or remembers.

    Args:
        orchestrator: Embeds.
        folder: Where the files are, one a policy and encoder version; None keeps nothing.
    """

    def __init__(self, orchestrator: Orchestrator, folder: Path | None) -> None:
        self._orchestrator = orchestrator
        self._folder = folder

    async def of(self, tenant: str, phrases: Sequence[str], version: int) -> EmbeddingArray:
        """Vectors of phrases by one version of the encoder, `[phrases, dims] float32`, L2-normalised.

        Raises:
            InferenceError: They cannot be embedded.
        """
        if self._folder is None:
            return await self._orchestrator.embed(phrases, version)
        path = self._folder / f"{tenant}-{version}.npz"
        encoder = self._orchestrator.encoder_weights(version)
        known = await asyncio.to_thread(_read, path, encoder)
        names = [hashlib.sha256(phrase.encode()).hexdigest() for phrase in phrases]
        missing = {name: phrase for name, phrase in zip(names, phrases, strict=True) if name not in known}
        if missing:
            vectors = await self._orchestrator.embed(list(missing.values()), version)
            known |= dict(zip(missing, vectors, strict=True))
            await asyncio.to_thread(_write, path, encoder, {name: known[name] for name in names})
        return np.stack([known[name] for name in names])


def _read(path: Path, encoder: str) -> Known:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if str(file["encoder"]) != encoder:
                return {}
            return dict(zip(file["names"].tolist(), file["vectors"], strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def _write(path: Path, encoder: str, known: Known) -> None:
    beside = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            np.savez(
                file, encoder=np.str_(encoder), names=np.array(list(known)), vectors=np.stack(list(known.values()))
            )
        os.replace(beside, path)
    except OSError as error:
        log.warning("example phrases are embedded anew at the next start", extra={"reason": error.strerror})
