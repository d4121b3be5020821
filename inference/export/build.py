"""Builds the files of a version from what is committed in its folder: one ONNX a precision.

`model.onnx` is static int8, the CPU default; `model.fp32.onnx` is the reference; `model.fp16.onnx` is for CUDA. The
same weights give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from inference.export.heads import Heads, fused_model, load_heads
from inference.export.precision import Float, Precision, Static8
from inference.export.retrieval import RetrievalHead, load_retrieval
from inference.export.scales import load_ranges
from inference.export.weights import Encoder, load_base_encoder, load_encoder

ENCODER_FILE = "encoder.safetensors"
HEADS_FILE = "heads.safetensors"
RETRIEVAL_FILE = "retrieval.safetensors"
RANGES_FILE = "static8.safetensors"

STATIC8_FILE = "model.onnx"
FP32_FILE = "model.fp32.onnx"
FP16_FILE = "model.fp16.onnx"


@dataclass(frozen=True, slots=True)
class Sources:
    """What a version's files are built from."""

    encoder: Encoder
    heads: Heads
    retrieval: RetrievalHead | None
    static8: Static8


def read_sources(version: Path) -> Sources:
    """Read the committed weights of a version; one without an encoder of its own stands on the base model.

    Raises:
        ExportError: If a file is missing or unreadable.
    """
    checkpoint = version / ENCODER_FILE
    encoder = load_encoder(checkpoint) if checkpoint.is_file() else load_base_encoder()
    static8 = Static8(load_ranges(version / RANGES_FILE))
    return Sources(encoder, load_heads(version / HEADS_FILE), load_retrieval(version / RETRIEVAL_FILE), static8)


def build_version(version: Path, progress: Callable[[str], None] = lambda _: None) -> tuple[Path, ...]:
    """Write every precision of a version. Existing files are replaced whole, never in part.

    Args:
        version: Folder such as `model_repo/utterance/1`.
        progress: Called with each file's name before it is built.

    Returns:
        The files written.

    Raises:
        ExportError: If the committed weights are missing or do not fit together.
    """
    sources = read_sources(version)
    precisions: dict[str, Precision] = {
        STATIC8_FILE: sources.static8,
        FP32_FILE: Float(),
        FP16_FILE: Float(np.float16),
    }
    written = []
    for name, precision in precisions.items():
        progress(name)
        model = fused_model(sources.encoder, sources.heads, precision, retrieval=sources.retrieval)
        written.append(write_model(model, version / name))
    return tuple(written)


def write_model(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model beside its place and move it there, so that a watcher never opens half a file."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(model.SerializeToString())
    os.replace(partial, path)
    return path
