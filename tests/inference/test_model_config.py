from __future__ import annotations

from pathlib import Path

import pytest

from inference.errors import ModelError
from inference.model_config import (
    ModelConfig,
    TensorSpec,
    VersionPolicy,
    describe_config,
    parse_config,
    read_config,
    render_config,
)

GOOD = """
# Comments, short and long forms, as Triton takes them.
name: "utterance"
backend: "onnxruntime"
max_batch_size: 16
input [{ name: "input_ids" data_type: TYPE_INT32 dims: [ -1 ] },
       { name: "mask" data_type: TYPE_INT32 dims: -1 optional: true }]
output { name: "logits" data_type: TYPE_FP32 dims: 3 label_filename: "labels.txt" }
instance_group [{ count: 2 kind: KIND_CPU }, { count: 1 kind: KIND_GPU gpus: [0, 1] }]
dynamic_batching { preferred_batch_size: [4, 8] max_queue_delay_microseconds: 500
  default_queue_policy { timeout_action: DELAY max_queue_size: 64 } }
version_policy: { specific: { versions: [1, 3] } }
parameters { key: "precision" value { string_value: "fp32" } }
optimization { cuda { graphs: true graph_spec { batch_size: 4 input { key: "input_ids" value { dim: 32 } } } } }
model_warmup [{ name: "w" batch_size: 1
  inputs { key: "input_ids" value { data_type: TYPE_INT32 dims: 8 random_data: true } } }]
"""


def describe(text: str, folder: str = "utterance") -> ModelConfig:
    message, ignored = parse_config(text, "model_repo/utterance/config.pbtxt")
    return describe_config(message, "model_repo/utterance/config.pbtxt", folder=folder, ignored=ignored)


def test_what_a_config_says() -> None:
    assert describe(GOOD) == ModelConfig(
        name="utterance",
        backend="onnxruntime",
        max_batch_size=16,
        inputs=(TensorSpec("input_ids", "INT32", (-1,)), TensorSpec("mask", "INT32", (-1,), optional=True)),
        outputs=(TensorSpec("logits", "FP32", (3,), "labels.txt"),),
        versions=VersionPolicy(latest=0, specific=(1, 3)),
        instances=3,
        preferred_batch_sizes=(4, 8),
        max_queue_delay_us=500,
        parameters={"precision": "fp32"},
    )


def test_the_text_form_is_read_back() -> None:
    message, _ = parse_config(GOOD, "x")
    again, _ = parse_config(render_config(message), "x")
    assert again == message
    message.backend = "python"  # as for a Triton that has no other backend
    assert 'backend: "python"' in render_config(message)


def test_a_config_of_another_kind_is_kept_whole() -> None:
    other = """
    sequence_batching { oldest { max_candidate_sequences: 4 }
      control_input [{ name: "START" control [{ kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] }] }] }
    batch_input [{ kind: BATCH_ITEM_SHAPE target_name: "x" data_type: TYPE_FP32 source_input: "y" }]
    model_metrics { metric_control [{ metric_identifier { family: "f" } histogram_options { buckets: [0.5, 2] } }] }
    """
    message, ignored = parse_config(other, "x")
    assert not ignored
    assert parse_config(render_config(message), "x")[0] == message
    assert list(message.sequence_batching.control_input[0].control[0].fp32_false_true) == [0, 1]


def test_platform_stands_for_the_backend() -> None:
    assert describe(GOOD.replace('backend: "onnxruntime"', 'platform: "onnxruntime_onnx"')).backend == "onnxruntime"


def test_an_unknown_field_is_skipped_and_told() -> None:
    config = describe(GOOD + "max_batch_sise: 4\n")
    assert config.max_batch_size == 16
    assert config.ignored == 'line 17: Message type "ModelConfig" has no field named "max_batch_sise".'


@pytest.mark.parametrize(
    ("old", "new", "key", "problem"),
    [
        ("max_batch_size: 16", "max_batch_size: -1", "max_batch_size", "expected 0 or more, given -1"),
        ("max_batch_size: 16", "max_batch_size: many", "line 5", "Couldn't parse integer"),
        ("max_batch_size: 16", "max_batch_size", "line 6", ""),
        ('name: "utterance"', 'name: "other"', "name", "expected the folder's name 'utterance', given 'other'"),
        ('backend: "onnxruntime"', "", "backend", "neither backend nor platform"),
        ("TYPE_FP32", "TYPE_FLOAT", "line 8", "TYPE_FLOAT"),
        ("data_type: TYPE_FP32 ", "", "output[0].data_type", "is missing"),
        ("dims: 3", "", "output[0].dims", "expected positive numbers or -1, given []"),
        ("dims: 3", "dims: 0", "output[0].dims", "given [0]"),
        ("dims: 3", "dims: -2", "output[0].dims", "given [-2]"),
        ('name: "mask"', 'name: "input_ids"', "input[1].name", "'input_ids' is declared twice"),
        ('name: "mask" ', "", "input[1].name", "is missing"),
        (
            "preferred_batch_size: [4, 8]",
            "preferred_batch_size: 32",
            "dynamic_batching.preferred_batch_size",
            "given 32",
        ),
        ("versions: [1, 3]", "", "version_policy.specific", "names no version"),
        ("output {", "input {", "output", "the model has none"),
    ],
)
def test_what_is_refused(old: str, new: str, key: str, problem: str) -> None:
    assert old in GOOD
    with pytest.raises(ModelError) as caught:
        describe(GOOD.replace(old, new))
    assert caught.value.key == key
    assert problem in caught.value.message
    assert caught.value.message.startswith(f"model_repo/utterance/config.pbtxt: {key}: ")


def test_files(tmp_path: Path) -> None:
    folder = tmp_path / "utterance"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"repo/utterance/config.pbtxt: no such file"):
        read_config(folder, "repo/utterance")
    (folder / "config.pbtxt").write_bytes(b"\xff")
    with pytest.raises(ModelError, match=r"cannot be read \(UnicodeDecodeError\)"):
        read_config(folder, "repo/utterance")
    (folder / "config.pbtxt").write_text(GOOD)
    assert read_config(folder, "repo/utterance").name == "utterance"


def test_version_policies() -> None:
    present = dict.fromkeys([1, 2, 10])
    assert VersionPolicy().choose(present) == (10,)
    assert VersionPolicy(latest=2).choose(present) == (10, 2)
    assert VersionPolicy(latest=0).choose(present) == (10, 2, 1)
    assert VersionPolicy(latest=0, specific=(1, 3)).choose(present) == (1,)


def test_tensors_print_as_errors_name_them() -> None:
    spec = TensorSpec("hidden", "FP16", (-1, 384))
    assert (str(spec), spec.size) == ("FP16[-1,384]", -1)
    assert TensorSpec("image", "UINT8", (3, 8)).size == 24
