"""Versions of the tiny encoder, with golden inputs, good and bad."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from inference.export.golden import write_golden
from inference.golden import GOLDEN_FILE, Golden, GoldenRow
from tests.inference.tiny_models import bert_tokenizer, encoder_onnx, write_encoder

SENTENCES = ("", "my card is lost", "thank you", "please help me now")


def add_golden(version: Path, weights: bytes) -> None:
    session = ort.InferenceSession(weights, providers=["CPUExecutionProvider"])
    tokenizer = bert_tokenizer()
    names = [output.name for output in session.get_outputs()]
    rows = []
    for text in SENTENCES:
        ids = tokenizer.encode(text).ids
        tokens = np.array([ids], np.int32)
        values = session.run(names, {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})
        outputs = {name: value[0].tolist() for name, value in zip(names, values, strict=True)}
        rows.append(GoldenRow(text, list(ids), outputs))
    write_golden(Golden(dict.fromkeys(names, 1e-4), rows), version / GOLDEN_FILE)


def write_repository(root: Path, versions: tuple[int, ...] = (1,)) -> Path:
    """A repository of one model; every version has other weights and proves itself."""
    root.mkdir(exist_ok=True)
    folder = write_encoder(root, versions=versions)
    for version in versions:
        add_golden(folder / str(version), encoder_onnx(seed=version))
    return root


def drop_version(
    repository: Path, number: int, *, seed: int | None = None, spoil: Callable[[Path], object] = lambda _: None
) -> Path:
    """Put a whole version into the repository at once, as `mv` does."""
    model = repository / "utterance"
    made = repository / f".{number}"
    made.mkdir()
    weights = encoder_onnx(seed=number if seed is None else seed)
    (made / "model.onnx").write_bytes(weights)
    shutil.copy(min(model.glob("[1-9]*")) / "heads.json", made)
    add_golden(made, weights)
    spoil(made)
    return made.rename(model / str(number))
