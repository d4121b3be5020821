"""Derives a repository for a Triton that has only the Python backend, from one made for the onnxruntime backend.

    model_repo/utterance/config.pbtxt ──backend, instances──▶ target/utterance/config.pbtxt
    model_repo/utterance/1/model.onnx ──────copied──────────▶ target/utterance/1/model.onnx, model.py

Names, shapes, dtypes, labels, limits and weights stay as they are, so that a client cannot tell the two apart.

    python -m inference.backends.triton_repository model_repo TARGET
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from inference.errors import ModelError
from inference.model_config import CONFIG_FILE, parse_config, render_config
from inference.repository import Model, ModelRepository

INSTANCES = 2
"""Copies of each model. One copy under a queue policy was seen to stall single requests for 500 ms (Triton 24.10)."""

_PYTHON_MODEL = Path(__file__).with_name("triton_python_model.py")
_WEIGHTS = "model.onnx"


def derive_repository(source: Path, target: Path, *, precision: str = "", instances: int = INSTANCES) -> None:
    """Write a copy of every served model that the Python backend can run.

    Args:
        source: Repository in Triton layout; its weights are built.
        target: Folder to write to, made where it is missing.
        precision: Weights to take, `model.<precision>.onnx`; empty: what each model's config says.
        instances: Copies of each model that run side by side.

    Raises:
        ModelError: If a model cannot be served, or lacks weights of this precision.
        FileExistsError: If the target has a folder of a model's name.
    """
    repository = ModelRepository.open(source)
    for problem in repository.problems:
        raise problem
    for model in repository.models.values():
        _derive_model(model, target / model.name, precision, instances)


def _derive_model(model: Model, target: Path, precision: str, instances: int) -> None:
    target.mkdir(parents=True)
    message, _ = parse_config((model.path / CONFIG_FILE).read_text("utf-8"), f"{model.where}/{CONFIG_FILE}")
    message.backend = "python"
    message.ClearField("platform")
    message.ClearField("default_model_filename")
    message.ClearField("instance_group")
    message.instance_group.add(count=instances, kind=_kind_cpu(message))
    if precision:
        message.parameters["precision"].string_value = precision
    (target / CONFIG_FILE).write_text(render_config(message), "utf-8")
    for tensor in model.config.outputs:
        if tensor.label_file:
            shutil.copyfile(model.path / tensor.label_file, target / tensor.label_file)
    for version in model.served:
        folder = target / str(version.version)
        folder.mkdir()
        weights = version.path / f"model.{precision}.onnx" if precision else version.weights
        if not weights.is_file():
            raise ModelError(
                "no weights; `make models` builds them", path=f"{model.where}/{version.version}/{weights.name}"
            )
        shutil.copyfile(weights, folder / _WEIGHTS)
        shutil.copyfile(_PYTHON_MODEL, folder / "model.py")


def _kind_cpu(message: Any) -> int:
    groups = message.DESCRIPTOR.fields_by_name["instance_group"].message_type
    return int(groups.fields_by_name["kind"].enum_type.values_by_name["KIND_CPU"].number)


def main() -> None:
    """Derive a repository from the command line."""
    parser = argparse.ArgumentParser(description="Derive a repository for a Triton that has only the Python backend.")
    parser.add_argument("source", type=Path, help="repository made for the onnxruntime backend, its weights built")
    parser.add_argument("target", type=Path, help="folder to write to")
    parser.add_argument("--precision", default="", help="weights to take; default: what each model's config says")
    parser.add_argument("--instances", type=int, default=INSTANCES, help="copies of each model side by side")
    given = parser.parse_args()
    derive_repository(given.source, given.target, precision=given.precision, instances=given.instances)


if __name__ == "__main__":
    main()
