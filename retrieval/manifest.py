"""What a generation says of itself: written last, so that a folder with a manifest is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from inference.embedding import EMBEDDING, RETRIEVAL
from inference.engine import Engine
from inference.repository import ModelRepository, ModelVersion
from inference.request import EmbeddingArray
from retrieval.dense import IndexKind
from retrieval.errors import DamagedIndex, EncoderMismatch, ingest_command

FORMAT_VERSION = 4
"""Of the files, and of the phrases whose vectors they hold: a base with other `anchors.PHRASES` is not damaged."""
MANIFEST = "manifest.json"


class _Head(msgspec.Struct, frozen=True):
    """What a manifest of any format holds; `origin` is None in those that knew none."""

    format: int
    origin: str | None = None


class EncoderIdentity(msgspec.Struct, frozen=True):
    """Which encoder made the vectors.

    Attributes:
        model: Name in the model repository.
        version: Its version.
        digest: Of the sources of the weights that make vectors; equal for every precision built from them.
        dims: Width of a vector.
        output: Which of the model's outputs it is.
    """

    model: str
    version: int
    digest: str
    dims: int
    output: str = EMBEDDING

    def is_like(self, other: EncoderIdentity) -> bool:
        """Whether both make the same vectors: a version with other heads on the same encoder does."""
        return (self.digest, self.dims, self.output) == (other.digest, other.dims, other.output)


class Calibration(msgspec.Struct, frozen=True):
    """When to abstain, found at ingest on the base itself.

    Attributes:
        threshold: Lowest evidence that counts as an answer.
        off_topic_p50: Median evidence of questions that no service base answers.
        off_topic_max: The highest of them.
    """

    threshold: float
    off_topic_p50: float
    off_topic_max: float


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of one generation.

    Attributes:
        format: Of the files beside it.
        base: Name of the base.
        generation: Grows with every change.
        created_at: ISO 8601, UTC.
        encoder: Who made the vectors.
        index: Kind of FAISS index, chosen by size.
        files: Files read.
        articles: Articles in it.
        passages: Passages in it.
        parts: Parts in it.
        calibration: When to abstain.
        digest: Of all passages and their audiences; an equal one means nothing changed.
        origin: Who keeps it in step with its articles: `folder` the server, from its own; empty: whoever ingests.
        names: Those in articles that everybody may see, for recognisers.
        sizes_bytes: Of each file beside it: a torn file must be noticed before it is mapped.
    """

    format: int = FORMAT_VERSION
    base: str
    generation: int
    created_at: str
    encoder: EncoderIdentity
    index: IndexKind
    files: int
    articles: int
    passages: int
    parts: int
    calibration: Calibration
    digest: str
    sizes_bytes: dict[str, int]
    origin: str = ""
    names: tuple[str, ...] = ()

    def check_files(self, folder: Path) -> None:
        """Compare the files of the folder with what was written.

        Raises:
            OSError: If a file is missing.
            ValueError: If one has another size.
        """
        for name, size_bytes in self.sizes_bytes.items():
            if (folder / name).stat().st_size != size_bytes:
                raise ValueError(f"{name} is torn")

    def write(self, folder: Path) -> None:
        """Write it, readable by people."""
        (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    @classmethod
    def read(cls, folder: Path, base: str, tenant: str) -> Manifest:
        """Read that of a generation.

        Args:
            folder: Of the generation.
            base: Name of its base.
            tenant: Owner.

        Raises:
            DamagedIndex: If it is missing, torn, or of another format; with the command that rebuilds.
        """
        place = f"knowledge base {base}, generation {folder.name}"
        try:
            written = (folder / MANIFEST).read_bytes()
            number = msgspec.json.decode(written, type=_Head).format
            if number == FORMAT_VERSION:
                return msgspec.json.decode(written, type=cls)
        except (OSError, msgspec.DecodeError, UnicodeError) as error:
            raise DamagedIndex(
                f"{place}: its manifest cannot be read; rebuild it: {ingest_command(base, tenant)}", field="kb"
            ) from error
        raise DamagedIndex(
            f"{place} was written in format {number}, this version reads {FORMAT_VERSION}; "
            f"rebuild it: {ingest_command(base, tenant)}",
            field="kb",
        )

    def check_encoder(self, encoder: EncoderIdentity, tenant: str) -> None:
        """Refuse an index that another encoder built.

        Raises:
            EncoderMismatch: With the command that rebuilds it.
        """
        if not self.encoder.is_like(encoder):
            theirs, ours = self.encoder, encoder
            raise EncoderMismatch(
                f"knowledge base {self.base} was built with {theirs.model}/{theirs.version} ({theirs.digest}, "
                f"{theirs.dims} dimensions), this server runs {ours.model}/{ours.version} ({ours.digest}, "
                f"{ours.dims}); rebuild it: {ingest_command(self.base, tenant)}",
                field="encoder",
            )


def read_origin(folder: Path) -> str | None:
    """Return who keeps a generation in step with its articles, whatever its format; None where nothing says so."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Head).origin
    except (OSError, msgspec.DecodeError, UnicodeError):
        return None


class Embedder(Protocol):
    """Makes vectors. The engine in the server, something small in tests."""

    @property
    def identity(self) -> EncoderIdentity:
        """Which encoder it is."""

    async def embed(self, texts: Sequence[str]) -> EmbeddingArray:
        """Return `[texts, dims] float32`, L2-normalised."""


@dataclass(frozen=True, slots=True)
class EngineEmbedder:
    """The engine's own encoder.

    Attributes:
        engine: Started.
        identity: Of the model that `Engine.embed` uses.
    """

    engine: Engine
    identity: EncoderIdentity

    async def embed(self, texts: Sequence[str]) -> EmbeddingArray:
        """Embed behind all live requests, with the version that made the index, whichever answers meanwhile."""
        return await self.engine.embed(texts, self.identity.version, self.identity.output)


def encoder_identity(repository: ModelRepository, model: str = "") -> EncoderIdentity:
    """Describe the encoder that a repository serves.

    Args:
        repository: Opened.
        model: Name; empty: the first with an embedding, as the engine chooses.

    Raises:
        ModelError: If there is no such model.
        DamagedIndex: If no model has an embedding.
    """
    names = [model] if model else list(repository.models)
    for name in names:
        version = repository.model(name).latest
        dims = {tensor.name: int(tensor.dims[-1]) for tensor in version.config.outputs}
        for output in (RETRIEVAL, EMBEDDING):
            if EMBEDDING in dims and output in dims:
                return EncoderIdentity(name, version.version, _weights_digest(version), dims[output], output)
    raise DamagedIndex("no model of the repository has an embedding", field="paths.model_repo")


def _weights_digest(version: ModelVersion) -> str:
    """Digest what vectors are made with, so that int8 and fp16 of one checkpoint share an index (cosine 0.999), and so
    do versions that differ in their heads alone.
    """
    digest = hashlib.sha256(version.tokenizer_digest.encode())
    of_vectors = [version.path / f"{part}.safetensors" for part in ("encoder", RETRIEVAL)]
    if not of_vectors[1].is_file():  # the vector is made with a part of the heads' file
        of_vectors[1] = version.path / "heads.safetensors"
    for file in [file for file in of_vectors if file.is_file()] or [version.weights]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
