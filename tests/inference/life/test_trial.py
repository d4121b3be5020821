from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from inference.errors import ModelError
from inference.life.trial import ProcessTrial
from inference.priority import LOADING
from inference.repository import ModelRepository, ModelVersion
from inference.settings import EngineSettings
from tests.inference.life.folders import drop_version, write_repository
from tests.inference.tiny_models import encoder_onnx


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "model_repo")


def version(repository: Path, number: int) -> ModelVersion:
    return ModelRepository.open(repository).model("utterance").versions[number]


def interpreter(path: Path, script: str) -> ProcessTrial:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return ProcessTrial(EngineSettings(), str(path))


async def test_a_version_is_tried_in_a_process_of_its_own(repository: Path) -> None:
    trial = ProcessTrial(EngineSettings())
    await trial(version(repository, 1), 60.0)
    drop_version(repository, 2, spoil=lambda folder: (folder / "model.onnx").write_bytes(encoder_onnx(seed=9)))
    with pytest.raises(ModelError, match=r"^utterance/2/golden\.json: row 0: \w+ differs by"):
        await trial(version(repository, 2), 60.0)


async def test_a_version_that_crashes_or_hangs_its_process_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"utterance/1: crashes the process that loads it \(SIGSEGV\)"):
        await interpreter(tmp_path / "crash", "kill -SEGV $$")(version(repository, 1), 60.0)
    with pytest.raises(ModelError, match=r"utterance/1: was not ready after 0.2 s"):
        await interpreter(tmp_path / "hang", "exec sleep 60")(version(repository, 1), 0.2)
    with pytest.raises(ModelError, match=r"utterance/1: cannot be loaded \(exit status 3\)"):
        await interpreter(tmp_path / "odd", "echo nonsense; exit 3")(version(repository, 1), 60.0)


def test_where_memory_runs_out_the_trial_goes_and_not_the_server() -> None:
    script = """
import os
from inference.life.trial import be_expendable
before = os.nice(0)
be_expendable()
print(open("/proc/self/oom_score_adj").read().strip(), os.nice(0) - before, before)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    score, lowered, before = map(int, answer.stdout.split())
    assert score == 1000
    assert lowered == min(LOADING, 19 - before)
