from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from inference.backends import triton_repository
from inference.backends.triton_repository import derive_repository
from inference.errors import ModelError
from inference.model_config import CONFIG_FILE, parse_config
from inference.repository import ModelRepository
from tests.inference.model_folders import write_model


def test_only_backend_and_instances_change(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    write_model(source, extra="dynamic_batching { max_queue_delay_microseconds: 5 }")
    derive_repository(source, target, instances=3)
    ours = ModelRepository.open(source).model("utterance").latest
    derived = ModelRepository.open(target).model("utterance").latest
    assert derived.config == replace(ours.config, backend="python", instances=3)
    assert derived.labels == ours.labels
    assert derived.weights.read_bytes() == ours.weights.read_bytes()
    message, ignored = parse_config((target / "utterance" / CONFIG_FILE).read_text(), CONFIG_FILE)
    assert not ignored
    assert "kind: KIND_CPU" in str(message.instance_group[0])


def test_every_version_has_a_model_that_python_can_read(tmp_path: Path) -> None:
    write_model(tmp_path / "source", versions=(1, 2), extra="version_policy { all {} }")
    derive_repository(tmp_path / "source", tmp_path / "target")
    for version in ("1", "2"):
        tree = ast.parse((tmp_path / "target" / "utterance" / version / "model.py").read_text("utf-8"))
        assert "TritonPythonModel" in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_a_precision_takes_its_weights_and_says_so(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "source")
    (folder / "1" / "model.fp32.onnx").write_bytes(b"wide")
    derive_repository(tmp_path / "source", tmp_path / "target", precision="fp32")
    assert (tmp_path / "target" / "utterance" / "1" / "model.onnx").read_bytes() == b"wide"
    message, _ = parse_config((tmp_path / "target" / "utterance" / CONFIG_FILE).read_text(), CONFIG_FILE)
    assert message.parameters["precision"].string_value == "fp32"
    with pytest.raises(ModelError, match=r"model\.fp16\.onnx"):
        derive_repository(tmp_path / "source", tmp_path / "other", precision="fp16")


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    write_model(tmp_path / "source")
    derive_repository(tmp_path / "source", tmp_path / "target")
    with pytest.raises(FileExistsError):
        derive_repository(tmp_path / "source", tmp_path / "target")


def test_a_repository_with_a_problem_is_not_derived(tmp_path: Path) -> None:
    write_model(tmp_path / "source", weights=False)
    with pytest.raises(ModelError, match="no weights"):
        derive_repository(tmp_path / "source", tmp_path / "target")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "source")
    monkeypatch.setattr("sys.argv", ["derive", str(tmp_path / "source"), str(tmp_path / "target")])
    triton_repository.main()
    assert (tmp_path / "target" / "utterance" / "1" / "model.py").is_file()
