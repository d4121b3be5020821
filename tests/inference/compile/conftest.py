from __future__ import annotations

from pathlib import Path

import pytest

from inference.repository import ModelRepository
from tests.inference.model_folders import write_model


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    """Two encoders with the same tokeniser and heads, and one with another tokeniser."""
    folder: Path = tmp_path_factory.mktemp("models") / "model_repo"
    write_model(folder, "utterance")
    write_model(folder, "second")
    write_model(folder, "foreign", tokenizer='{"other": true}')
    opened = ModelRepository.open(folder)
    assert not opened.problems
    return opened
