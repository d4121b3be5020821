"""The vector that knowledge bases are searched by, against numpy, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from inference.export.heads import fused_model
from inference.export.precision import Float
from inference.export.retrieval import RETRIEVAL, RetrievalHead, load_retrieval, save_retrieval
from inference.export.verify import open_session
from inference.export.weights import ExportError, FloatArray
from tests.inference.export.tiny_bert import DIMS, NUM_LAYERS, reference_states, tiny_encoder, tiny_heads

ROWS = [[1, 7, 9, 2], [3], [4, 4, 8, 11, 30, 2, 5], []]


def tiny_retrieval(num_layers: int = 2, seed: int = 2) -> RetrievalHead:
    rng = np.random.default_rng(seed)
    shapes = (num_layers, DIMS), (DIMS, num_layers * DIMS), DIMS
    return RetrievalHead(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


def run(path: Path, rows: list[list[int]]) -> FloatArray:
    width = max(len(row) for row in rows) + 2
    ids, mask = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), np.int32)
    for place, row in enumerate(rows):
        ids[place, : len(row)], mask[place, : len(row)] = row, 1
    return np.asarray(open_session(path).run([RETRIEVAL], {"input_ids": ids, "attention_mask": mask})[0])


@pytest.fixture(params=[1, 2])
def head(request: pytest.FixtureRequest) -> RetrievalHead:
    return tiny_retrieval(request.param)


@pytest.fixture(params=[np.float32, np.float16])
def model(head: RetrievalHead, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / f"model.{np.dtype(request.param).name}.onnx"
    path.write_bytes(
        fused_model(tiny_encoder(), tiny_heads(), Float(request.param), retrieval=head).SerializeToString()
    )
    return path


def test_padding_takes_no_share_and_the_vector_has_length_one(model: Path, head: RetrievalHead) -> None:
    given, tolerance = run(model, ROWS), 0.05 if "float16" in model.name else 2e-4
    assert np.isfinite(given).all()
    for row, ids in enumerate(ROWS[:-1]):
        pooled = []
        for layer, query in zip(head.layers(NUM_LAYERS), head.query, strict=True):
            hidden = reference_states(tiny_encoder(), ids)[layer - NUM_LAYERS - 1]
            shares = np.exp(hidden @ query - (hidden @ query).max())
            mean = shares @ hidden
            pooled.append(mean / np.linalg.norm(mean))
        vector = head.projection @ np.concatenate(pooled) + head.bias
        np.testing.assert_allclose(given[row], vector / np.linalg.norm(vector), atol=tolerance)


def test_the_other_outputs_are_what_they_are_without_it(model: Path) -> None:
    plain = model.with_name("plain.onnx")
    dtype = np.float16 if "float16" in model.name else np.float32
    plain.write_bytes(fused_model(tiny_encoder(), tiny_heads(), Float(dtype)).SerializeToString())
    inputs = {"input_ids": np.array([[1, 7, 9]], np.int32), "attention_mask": np.ones((1, 3), np.int32)}
    sessions = open_session(plain), open_session(model)
    names = [output.name for output in sessions[0].get_outputs()]
    assert [output.name for output in sessions[1].get_outputs()] == [*names, RETRIEVAL]
    for name in names:
        np.testing.assert_array_equal(*(session.run([name], inputs)[0] for session in sessions))


def test_the_head_survives_its_file_and_a_torn_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "retrieval.safetensors"
    assert load_retrieval(path) is None
    save_retrieval(tiny_retrieval(), path)
    read = load_retrieval(path)
    assert read is not None
    np.testing.assert_allclose(read.projection, tiny_retrieval().projection, atol=2e-3)
    save_file({"query": np.zeros(3, np.float16)}, path)
    with pytest.raises(ExportError, match=r"retrieval\.safetensors: lacks 'projection'"):
        load_retrieval(path)
