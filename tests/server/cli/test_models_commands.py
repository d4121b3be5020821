"""What `cueline models train | evaluate` refuse, and how they say it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli.models import models

pytest.importorskip("torch")


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    out = tmp_path / "repo" / "utterance" / "1"
    result = CliRunner().invoke(
        models, ["train", "--data", str(tmp_path), "--out", str(out), "--work", str(tmp_path / "work"), "--steps", "0"]
    )
    assert result.exit_code == 1
    assert "clinc150_train.jsonl" in result.output
    assert not out.exists()


def test_a_version_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        models, ["evaluate", "--data", str(tmp_path), "--repo", str(tmp_path), "--version", "7"]
    )
    assert result.exit_code == 1
    assert "no version 7" in result.output


def test_a_version_that_is_not_built_says_how(tmp_path: Path) -> None:
    (tmp_path / "utterance" / "2").mkdir(parents=True)
    result = CliRunner().invoke(models, ["evaluate", "--data", str(tmp_path), "--repo", str(tmp_path)])
    assert result.exit_code == 1
    assert "models build" in result.output


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_data_is_required(command: str) -> None:
    result = CliRunner().invoke(models, [command])
    assert result.exit_code == 2
    assert "--data" in result.output
