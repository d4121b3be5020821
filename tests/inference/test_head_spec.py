from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.errors import ModelError
from inference.head_spec import HeadSpec, read_heads
from inference.model_config import ModelConfig, TensorSpec

LABELS = {"intent": ("a", "b", "c"), "acts": ("x", "y")}
CONFIG = ModelConfig(
    name="utterance",
    backend="onnxruntime",
    max_batch_size=8,
    inputs=(TensorSpec("input_ids", "INT32", (-1,)),),
    outputs=(
        TensorSpec("intent", "FP32", (3,)),
        TensorSpec("scope", "FP32", (1,)),
        TensorSpec("acts", "FP32", (2,)),
        TensorSpec("question", "FP32", (1,)),
        TensorSpec("hidden", "FP32", (-1, 4)),
        TensorSpec("bare", "FP32", (2,)),
    ),
)


def read(tmp_path: Path, content: Any) -> Any:
    file = tmp_path / "heads.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_heads(file, "repo/utterance/1/heads.json", CONFIG, LABELS)


def test_every_kind(tmp_path: Path) -> None:
    heads = read(
        tmp_path,
        {
            "intent": {"kind": "single", "temperature": 2, "bias": [0, 1, 0], "scope": "scope", "scope_threshold": 0.4},
            "acts": {"kind": "multi", "temperature": [1, 2], "threshold": [0.2, 0.3], "speakers": {"agent": ["x"]}},
            "question": {"kind": "binary", "flag": "is_question", "bias": [0.5], "threshold": [0.7]},
        },
    )
    assert heads["intent"].scope == "scope"
    assert heads["acts"] == HeadSpec("multi", temperature=[1, 2], threshold=[0.2, 0.3], speakers={"agent": ["x"]})
    assert heads["question"].flag == "is_question"


def test_no_file_is_no_heads(tmp_path: Path) -> None:
    assert read_heads(tmp_path / "heads.json", "x", CONFIG, LABELS) == {}


@pytest.mark.parametrize(
    ("tensor", "head", "key", "problem"),
    [
        ("mood", {"kind": "single"}, "mood", "the model has no output of that name"),
        ("intent", {}, "intent", "missing required field `kind`"),
        ("intent", {"kind": "singel"}, "intent.kind", "Invalid enum value 'singel'"),
        ("intent", {"kind": "single", "temprature": 1}, "intent", "unknown field `temprature`"),
        ("intent", {"kind": "single", "temperature": 0}, "intent.temperature", "expected positive numbers"),
        ("intent", {"kind": "single", "temperature": [1, 1, 1]}, "intent.temperature", "single takes one number"),
        ("intent", {"kind": "single", "bias": [1]}, "intent.bias", "expected 3 numbers, one a label, given 1"),
        ("intent", {"kind": "multi", "threshold": [0.5]}, "intent.threshold", "expected 3 numbers"),
        ("intent", {"kind": "single", "scope": "nothing"}, "intent.scope", "no such output"),
        ("intent", {"kind": "single", "scope": "acts"}, "intent.scope", "expected an output FP32[1]"),
        ("acts", {"kind": "multi", "scope": "scope"}, "acts.scope", "only a single head has one"),
        ("acts", {"kind": "multi", "scope_temperature": -1}, "acts.temperature", "expected positive numbers"),
        ("acts", {"kind": "multi", "flag": "is_act"}, "acts.flag", "on a binary head"),
        ("acts", {"kind": "multi", "speakers": {"agent": ["z"]}}, "acts.speakers", "'z' is no label"),
        ("intent", {"kind": "single", "speakers": {}}, "intent.speakers", "only a multi head has them"),
        ("question", {"kind": "binary", "flag": "score"}, "question.flag", "a name other than score"),
        ("question", {"kind": "binary", "flag": "is it"}, "question.flag", "a name"),
        ("acts", {"kind": "binary"}, "acts.kind", "binary expected FP32[1], given FP32[2]"),
        ("bare", {"kind": "single"}, "bare.kind", "single needs labels"),
        ("acts", {"kind": "multi", "carry": "nothing"}, "acts.carry", "no such output"),
        ("acts", {"kind": "multi", "carry": "hidden"}, "acts.carry", "expected a row of floats"),
        ("acts", {"kind": "multi", "carry": "intent", "carry_first": 2}, "acts.carry_first", "columns 2 and 1 more"),
        ("acts", {"kind": "multi", "carry": "intent", "carry_first": -1}, "acts.carry_first", "columns -1 and 1 more"),
        ("hidden", {"kind": "single"}, "hidden", "expected a row of floats, given FP32[-1,4]"),
    ],
)
def test_what_is_refused(tensor: str, head: Any, key: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        read(tmp_path, {tensor: head})
    assert caught.value.key == key
    assert problem in caught.value.message
    assert caught.value.message.startswith("repo/utterance/1/heads.json: ")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"intent": 1}', "null"])
def test_what_is_no_heads_file(content: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"repo/utterance/1/heads\.json: "):
        read(tmp_path, content)
