"""What `cueline models build | train | search-head | evaluate` refuse, and how they say it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from inference.export import build
from server.cli.models import _is_fresh, models

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="training and judging need the extra `train`"
)


@needs_torch
def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    out = tmp_path / "repo" / "utterance" / "1"
    result = CliRunner().invoke(
        models, ["train", "--data", str(tmp_path), "--out", str(out), "--work", str(tmp_path / "work"), "--steps", "0"]
    )
    assert result.exit_code == 1
    assert "clinc150_train.jsonl" in result.output
    assert not out.exists()


COMMANDS = pytest.mark.parametrize(
    "command", [["search-head"], ["evaluate", "--data", "."]], ids=lambda words: words[0]
)


@COMMANDS
def test_a_version_that_is_not_there_is_named_and_those_that_are(command: list[str], tmp_path: Path) -> None:
    for name in ("1", "12", "3-old"):
        (tmp_path / "utterance" / name).mkdir(parents=True)
    result = CliRunner().invoke(models, [*command, "--repo", str(tmp_path), "--version", "9"])
    assert result.exit_code == 1
    assert "has no version 9; there is 1, 12" in result.output


@COMMANDS
def test_a_repository_without_a_version_is_named(command: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(models, [*command, "--repo", str(tmp_path)])
    assert result.exit_code == 1
    assert f"{tmp_path / 'utterance'}: has no version" in result.output


@COMMANDS
def test_a_version_that_is_not_built_says_how(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "utterance" / "2").mkdir(parents=True)
    result = CliRunner().invoke(models, [*command, "--repo", str(tmp_path)])
    assert result.exit_code == 1
    assert "models build" in result.output


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_data_is_required(command: str) -> None:
    result = CliRunner().invoke(models, [command])
    assert result.exit_code == 2
    assert "--data" in result.output


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    version = tmp_path / "utterance" / "1"
    version.mkdir(parents=True)
    for name in ("encoder", "heads", "static8"):
        (version / f"{name}.safetensors").write_bytes(b"nothing of the kind")
    result = CliRunner().invoke(models, ["build", "--repo", str(tmp_path)])
    assert result.exit_code == 1
    assert "encoder.safetensors: damaged" in result.output


@needs_torch
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--layers", "1,b"], "'--layers'"),
        (["--seed", "-1"], "'--seed'"),
        (["--out", "model_repo/utterance/next"], "'--out': a version folder is named by its number"),
    ],
)
def test_what_a_run_cannot_be_is_said_before_it_starts(arguments: list[str], problem: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(models, ["train", "--data", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert problem in result.output


@needs_torch
def test_a_fresh_start_removes_nothing_but_what_stages_left(tmp_path: Path) -> None:
    (tmp_path / "frozen.npz").touch()
    (tmp_path / "thesis.tex").touch()
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "repo/utterance/1"), "--work", str(tmp_path)]
    result = CliRunner().invoke(models, ["train", *arguments, "--fresh"])
    assert result.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_version_is_built_again_when_a_precision_is_missing(tmp_path: Path) -> None:
    version = tmp_path / "1"
    version.mkdir()
    for name in ("heads.safetensors", "model.onnx", "model.fp32.onnx", "model.fp16.onnx"):
        (version / name).touch()
    assert _is_fresh(version)
    (version / "model.fp32.onnx").unlink()
    assert not _is_fresh(version)


@pytest.mark.parametrize("older", ["heads.safetensors", "the exporter"])
def test_a_version_is_built_again_when_what_it_is_built_from_is_newer(tmp_path: Path, older: str) -> None:
    version = tmp_path / "1"
    version.mkdir()
    for name in ("heads.safetensors", "model.onnx", "model.fp32.onnx", "model.fp16.onnx"):
        (version / name).touch()
    exported_s = max(path.stat().st_mtime for path in Path(build.__file__).parent.glob("*.py"))
    built_s = exported_s + (60 if older == "heads.safetensors" else -60)
    for path in version.iterdir():
        os.utime(path, (built_s, built_s))
    if older == "heads.safetensors":
        assert _is_fresh(version)
        os.utime(version / older, (built_s + 1, built_s + 1))
    assert not _is_fresh(version)


def test_a_version_that_came_built_and_without_weights_is_left_as_it_is(tmp_path: Path) -> None:
    """Of somebody's own training: there is nothing that it could be built from again."""
    version = tmp_path / "utterance" / "1"
    version.mkdir(parents=True)
    for name in ("model.onnx", "model.fp32.onnx", "model.fp16.onnx"):
        (version / name).touch()
        os.utime(version / name, (1e9, 1e9))
    result = CliRunner().invoke(models, ["build", "--repo", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert all(path.stat().st_size == 0 for path in version.iterdir())
