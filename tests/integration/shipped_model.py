"""The shipped model as a repository of its own, to which versions can be added."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

SHIPPED = Path(__file__).parents[2] / "model_repo" / "utterance"
BUILT = "model.onnx"


def shipped_repository(root: Path) -> Path:
    """Write one with version 1; its large files are links. Skips where the model is not built."""
    if not (SHIPPED / "1" / BUILT).is_file():
        pytest.skip("model_repo/utterance is not built; `make models` builds it")
    repository = root / "model_repo"
    model = repository / "utterance"
    model.mkdir(parents=True)
    for file in SHIPPED.iterdir():
        if file.is_file():
            shutil.copy(file, model)
    drop(model, 1)
    return repository


def drop(model: Path, number: int) -> Path:
    """Add a version at once, as `mv` does: the same weights under another number."""
    made = model / f".{number}"
    made.mkdir()
    for file in (SHIPPED / "1").iterdir():
        if file.name == BUILT or file.suffix != ".onnx":
            os.link(file, made / file.name)
    return made.rename(model / str(number))
