"""The repository of the tests of versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inference.life.folders import write_repository


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "model_repo")
