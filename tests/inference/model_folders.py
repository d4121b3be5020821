"""Writes tiny model folders: config, labels, heads, and weights of a few bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LABELS: Mapping[str, Sequence[str]] = {
    "intent_logits": ("transfer", "balance", "order_status"),
    "sentiment_logits": ("negative", "neutral", "positive"),
    "acts_logits": ("greet", "thank", "ask"),
    "actions_logits": ("verify", "apologise", "close"),
    "intent_banking_logits": ("lost_card", "top_up"),
    "intent_modular_logits": ("change", "cancel", "booking"),
}
ONE_COLUMN = ("intent_scope", "dissatisfied_logits", "question_logits")
HEADS: Mapping[str, Mapping[str, Any]] = {
    "intent_logits": {"kind": "single", "temperature": 1.3, "scope": "intent_scope"},
    "intent_banking_logits": {"kind": "single"},
    "intent_modular_logits": {"kind": "multi", "threshold": [0.4, 0.5, 0.6]},
    "sentiment_logits": {"kind": "distribution"},
    "dissatisfied_logits": {"kind": "binary"},
    "acts_logits": {"kind": "multi"},
    "actions_logits": {"kind": "multi", "speakers": {"agent": ["verify", "apologise", "close"], "customer": []}},
    "question_logits": {"kind": "binary", "threshold": 0.6, "flag": "is_question"},
}


def write_model(
    repository: Path,
    name: str = "utterance",
    *,
    versions: Sequence[int] = (1,),
    dims: int = 4,
    heads: Mapping[str, Mapping[str, Any]] = HEADS,
    extra: str = "",
    weights: bool = True,
    tokenizer: str | None = "{}",
) -> Path:
    """Write one encoder with heads; `extra` is appended to its config."""
    folder = repository / name
    folder.mkdir(parents=True)
    outputs = [f'output {{ name: "embedding" data_type: TYPE_FP32 dims: [{dims}] }}']
    for tensor, labels in LABELS.items():
        (folder / f"{tensor}.txt").write_text("\n".join(labels) + "\n")
        outputs.append(
            f'output {{ name: "{tensor}" data_type: TYPE_FP32 dims: [{len(labels)}] label_filename: "{tensor}.txt" }}'
        )
    outputs += [f'output {{ name: "{tensor}" data_type: TYPE_FP32 dims: [1] }}' for tensor in ONE_COLUMN]
    (folder / "config.pbtxt").write_text(
        "\n".join(
            [
                f'name: "{name}"',
                'backend: "onnxruntime"',
                "max_batch_size: 8",
                'input [{ name: "input_ids" data_type: TYPE_INT32 dims: [-1] },',
                '       { name: "attention_mask" data_type: TYPE_INT32 dims: [-1] }]',
                *outputs,
                'parameters { key: "buckets_rows" value { string_value: "1,4,8" } }',
                'parameters { key: "buckets_tokens" value { string_value: "8,32" } }',
                extra,
            ]
        )
    )
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer)
    for version in versions:
        (folder / str(version)).mkdir()
        (folder / str(version) / "heads.json").write_text(json.dumps(heads))
        if weights:
            (folder / str(version) / "model.onnx").write_bytes(b"weights")
    return folder


def write_scorer(repository: Path, name: str, *inputs: str) -> Path:
    """Write a model that scores tensors, one `TYPE[dims]` an input."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(b"weights")
    (folder / "1" / "heads.json").write_text('{"score": {"kind": "binary"}}')
    lines = ['backend: "onnxruntime"', "max_batch_size: 4"]
    for index, spec in enumerate(inputs):
        dtype, dims = spec.rstrip("]").split("[")
        lines.append(f'input {{ name: "x{index}" data_type: TYPE_{dtype} dims: [{dims}] }}')
    lines.append('output { name: "score" data_type: TYPE_FP32 dims: [1] }')
    (folder / "config.pbtxt").write_text("\n".join(lines))
    return folder
