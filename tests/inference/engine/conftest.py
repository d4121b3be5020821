"""Repositories for the engine's tests: a scripted fake's, and a tiny real encoder's with two versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inference.model_folders import write_model
from tests.inference.tiny_models import bert_tokenizer, write_encoder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_model(tmp_path, tokenizer=bert_tokenizer().to_str())
    return tmp_path


@pytest.fixture
def real_repository(tmp_path: Path) -> Path:
    write_encoder(tmp_path, versions=(1, 2))
    config = tmp_path / "utterance" / "config.pbtxt"
    config.write_text(config.read_text() + "version_policy { all {} }\n")
    return tmp_path
