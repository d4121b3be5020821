from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from inference.errors import BackendUnavailable, DeadlineExceeded, ModelError, ModelFailed
from inference.model_config import TensorSpec
from inference.repository import ModelRepository, ModelVersion
from tests.inference.model_folders import write_model

triton = pytest.importorskip("inference.backends.triton", reason="needs requirements/triton.lock")
REPOSITORY = Path(__file__).resolve().parents[3] / "model_repo"


@pytest.fixture
def version(tmp_path: Path) -> ModelVersion:
    write_model(tmp_path)
    return ModelRepository.open(tmp_path).model("utterance").latest


@pytest.mark.parametrize("url", ["gpu-1:8001", "grpc://gpu-1:8001", "grpcs://gpu-1.example:443", "127.0.0.1:8001"])
def test_addresses(url: str) -> None:
    triton.TritonBackend(url)


@pytest.mark.parametrize("url", ["", "gpu-1", "http://gpu-1:8000", ":8001", "gpu-1:0", "gpu-1:port", "gpu-1:99999"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="expected host:port"):
        triton.TritonBackend(url)


def test_the_same_config_fits(version: ModelVersion) -> None:
    triton.compare_configs(version, version.config, "there")


def test_a_larger_limit_and_more_outputs_fit(version: ModelVersion) -> None:
    there = replace(
        version.config,
        max_batch_size=64,
        inputs=(*version.config.inputs, TensorSpec("hint", "FP32", (1,), optional=True)),
        outputs=(*version.config.outputs, TensorSpec("extra", "FP32", (2,))),
    )
    triton.compare_configs(version, there, "there")


def tensors(specs: tuple[TensorSpec, ...], **changes: Any) -> tuple[TensorSpec, ...]:
    return (replace(specs[0], **changes), *specs[1:])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: {"outputs": c.outputs[1:]}, "output embedding: expected FP32[4], given none"),
        (lambda c: {"outputs": tensors(c.outputs, dims=(8,))}, "output embedding: expected FP32[4], given FP32[8]"),
        (lambda c: {"outputs": tensors(c.outputs, dtype="FP16")}, "expected FP32[4], given FP16[4]"),
        (
            lambda c: {"inputs": tensors(c.inputs, dtype="INT64")},
            "input input_ids: expected INT32[-1], given INT64[-1]",
        ),
        (lambda c: {"inputs": tensors(c.inputs, dims=(128,))}, "expected INT32[-1], given INT32[128]"),
        (lambda c: {"inputs": (*c.inputs, TensorSpec("x", "FP32", (1,)))}, "input x: is needed there"),
        (lambda c: {"max_batch_size": 4}, "max_batch_size: expected 8 or more, given 4"),
        (lambda c: {"parameters": {"precision": "fp16"}}, "precision: expected the default, given fp16"),
        (lambda c: {"outputs": tensors(c.outputs, label_file="x.txt")}, "label_filename: expected none, given x.txt"),
    ],
)
def test_another_model_is_named(version: ModelVersion, change: Any, complaint: str) -> None:
    with pytest.raises(ModelError) as refused:
        triton.compare_configs(version, replace(version.config, **change(version.config)), "there")
    assert complaint in str(refused.value)
    assert str(refused.value).startswith("there: ")


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        ("StatusCode.UNAVAILABLE", "connection refused", BackendUnavailable),
        ("StatusCode.INTERNAL", "Stub process 'utterance_0_0' is not healthy.", BackendUnavailable),
        ("StatusCode.UNAVAILABLE", "Request for unknown model", BackendUnavailable),
        ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded),
        ("StatusCode.INTERNAL", "onnx runtime error on 'my card number'", ModelFailed),
        ("StatusCode.INVALID_ARGUMENT", "unexpected shape for input", ModelFailed),
    ],
)
def test_answers_are_sorted_and_never_quoted(status: str, text: str, kind: type[Exception]) -> None:
    error = triton._describe(triton.InferenceServerException(text, status=status))
    assert type(error) is kind
    assert text not in str(error)


def test_the_committed_configs_are_of_the_public_schema_and_suit_a_gpu() -> None:
    """A field that Triton does not know would keep it from loading the model."""
    from tritonclient.grpc import model_config_pb2 as public

    for file in REPOSITORY.glob("*/config.pbtxt"):
        config = text_format.Parse(file.read_text("utf-8"), public.ModelConfig())
        assert config.name == file.parent.name
        assert config.backend == "onnxruntime"
        # No kind: Triton places an instance on every GPU it has, and on the CPU where it has none.
        assert all(group.kind == public.ModelInstanceGroup.KIND_AUTO for group in config.instance_group)
        assert config.HasField("dynamic_batching")
        assert config.dynamic_batching.max_queue_delay_microseconds == 0, "a second wait"
        assert all((file.parent / o.label_filename).is_file() for o in config.output if o.label_filename)
