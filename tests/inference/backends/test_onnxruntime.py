from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from inference.backends.contract import blank_inputs, warm
from inference.backends.onnxruntime import CPU, BoundModel, OnnxRuntimeBackend
from inference.errors import ModelError
from inference.fleet import with_precision
from inference.plan import Bucket
from inference.repository import ModelRepository, ModelVersion
from tests.inference.tiny_models import write_encoder


@pytest.fixture
def version(tmp_path: Path) -> ModelVersion:
    write_encoder(tmp_path)
    return ModelRepository.open(tmp_path).model("utterance").latest


def changed(version: ModelVersion, change: Callable[[str], str]) -> ModelVersion:
    root = version.path.parents[1]
    config = version.path.parent / "config.pbtxt"
    config.write_text(change(config.read_text()))
    return ModelRepository.open(root).model("utterance").latest


def test_only_the_outputs_asked_for_come_back_in_any_order(version: ModelVersion) -> None:
    model = OnnxRuntimeBackend().load(version)
    ids = np.array([[2, 5, 6, 3], [2, 8, 3, 0]], np.int32)
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int32)
    inputs = {"input_ids": ids, "attention_mask": mask}
    every = model.run(inputs, [spec.name for spec in version.config.outputs])
    some = model.run(inputs, ["question_logits", "embedding"])
    assert list(some) == ["question_logits", "embedding"]
    np.testing.assert_array_equal(some["embedding"], every["embedding"])
    np.testing.assert_allclose(np.linalg.norm(every["embedding"], axis=1), 1.0, rtol=1e-6)


def test_padding_and_a_read_only_batch_change_nothing(version: ModelVersion) -> None:
    model = OnnxRuntimeBackend().load(version)
    ids, mask = np.array([[2, 5, 3]], np.int32), np.ones((1, 3), np.int32)
    padded = {"input_ids": np.pad(ids, ((0, 2), (0, 4))), "attention_mask": np.pad(mask, ((0, 2), (0, 4)))}
    for array in padded.values():
        array.flags.writeable = False
    alone = model.run({"input_ids": ids, "attention_mask": mask}, ["embedding"])["embedding"]
    np.testing.assert_allclose(model.run(padded, ["embedding"])["embedding"][:1], alone, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("TYPE_INT32", "TYPE_INT64"), "expected INT64"),
        (lambda text: text.replace('"attention_mask"', '"mask"'), "has no input mask"),
        (
            lambda text: text.replace(',\n       { name: "attention_mask" data_type: TYPE_INT32 dims: [-1] }]', "]"),
            "needs input attention_mask",
        ),
        (lambda text: text.replace('"embedding" data_type: TYPE_FP32', '"embedding" data_type: TYPE_FP16'), "FP16"),
        (
            lambda text: text.replace(
                '"embedding" data_type: TYPE_FP32 dims: [4]', '"embedding" data_type: TYPE_FP32 dims: [4, 1]'
            ),
            "given FP32",
        ),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(
    version: ModelVersion, change: Callable[[str], str], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as told:
        OnnxRuntimeBackend().load(changed(version, change))
    assert "utterance/1/model.onnx" in told.value.message


def test_warming_measures_every_bucket(version: ModelVersion) -> None:
    model = OnnxRuntimeBackend().load(version)
    ticks = iter(range(1000))
    seen: list[Bucket] = []
    buckets = [Bucket(1, 8), Bucket(4, 32)]
    points = warm(model, version.config, buckets, ["embedding"], clock=lambda: float(next(ticks)), progress=seen.append)
    assert points == [(8, 1.0), (128, 1.0)]
    assert seen == buckets


def test_blank_inputs_have_the_shape_of_the_bucket(version: ModelVersion) -> None:
    blank = blank_inputs(version.config, Bucket(3, 8))
    assert {name: array.shape for name, array in blank.items()} == {"input_ids": (3, 8), "attention_mask": (3, 8)}
    assert blank["attention_mask"].all()


def test_bound_to_a_device_it_gives_the_same_numbers_in_any_order(version: ModelVersion) -> None:
    """The path that CUDA takes, bound to the CPU's memory: inputs, outputs by name, copies that outlive the binding."""
    plain = OnnxRuntimeBackend().load(version)
    bound = BoundModel(ort.InferenceSession(str(version.weights), providers=[CPU]), "cpu")
    ids, mask = np.array([[2, 5, 6, 3], [2, 8, 3, 0]], np.int32), np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int32)
    for array in (ids, mask):
        array.flags.writeable = False
    inputs, names = {"input_ids": ids, "attention_mask": mask}, ["question_logits", "embedding"]
    first = bound.run(inputs, names)
    kept = {name: array.copy() for name, array in first.items()}
    bound.run({name: array[:, :2] for name, array in inputs.items()}, names)
    assert list(first) == names
    for name, expected in plain.run(inputs, names).items():
        np.testing.assert_allclose(first[name], expected, atol=1e-6)
        np.testing.assert_array_equal(first[name], kept[name])


def test_cuda_takes_half_precision_where_it_is_built_and_nothing_is_configured(version: ModelVersion) -> None:
    assert with_precision(version, "", prefers_half=True) == version
    (version.path / "model.fp16.onnx").write_bytes(b"")
    assert with_precision(version, "", prefers_half=True).weights.name == "model.fp16.onnx"
    assert with_precision(version, "") == version
    assert with_precision(version, "fp32", prefers_half=True).weights.name == "model.fp32.onnx"
