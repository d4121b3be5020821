"""Which encoder made an index: what its vectors depend on, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from inference.repository import ModelRepository
from retrieval.errors import DamagedIndex
from retrieval.manifest import EncoderIdentity, encoder_identity
from tests.inference.model_folders import write_model

OUTPUT = 'output { name: "retrieval" data_type: TYPE_FP32 dims: [6] }'


def identity(repository: Path) -> EncoderIdentity:
    return encoder_identity(ModelRepository.open(repository))


def write_part(repository: Path, part: str, value: float) -> None:
    save_file({"x": np.full(3, value, np.float32)}, repository / "utterance" / "1" / f"{part}.safetensors")


def test_a_vector_of_its_own_is_taken_where_there_is_one(tmp_path: Path) -> None:
    write_model(tmp_path / "plain")
    write_model(tmp_path / "own", extra=OUTPUT)
    assert (identity(tmp_path / "plain").output, identity(tmp_path / "plain").dims) == ("embedding", 4)
    assert (identity(tmp_path / "own").output, identity(tmp_path / "own").dims) == ("retrieval", 6)


@pytest.mark.parametrize(
    ("part", "is_like"), [("heads", True), ("static8", True), ("encoder", False), ("retrieval", False)]
)
def test_only_what_makes_vectors_makes_another_encoder(part: str, is_like: bool, tmp_path: Path) -> None:
    write_model(tmp_path, extra=OUTPUT)
    for name in ("encoder", "heads", "retrieval", "static8"):
        write_part(tmp_path, name, 1.0)
    before = identity(tmp_path)
    write_part(tmp_path, part, 2.0)
    assert identity(tmp_path).is_like(before) is is_like


def test_an_embedding_depends_on_its_projection_among_the_heads(tmp_path: Path) -> None:
    write_model(tmp_path)
    write_part(tmp_path, "encoder", 1.0)
    write_part(tmp_path, "heads", 1.0)
    before = identity(tmp_path)
    write_part(tmp_path, "heads", 2.0)
    assert not identity(tmp_path).is_like(before)


def test_a_repository_without_vectors_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "embedding"', 'name: "other"'))
    with pytest.raises(DamagedIndex, match="no model"):
        identity(tmp_path)
