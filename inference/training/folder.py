"""Writes a model folder in Triton layout: config, labels, tokeniser, a version's weights, post-processing and proof."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from inference.export.build import ENCODER_FILE, FP32_FILE, HEADS_FILE, RANGES_FILE, STATIC8_FILE
from inference.export.golden import SENTENCES, make_golden, write_golden
from inference.export.heads import CARRY, Heads, save_heads
from inference.export.retrieval import RETRIEVAL
from inference.export.scales import save_ranges
from inference.export.verify import open_session, verify_version
from inference.export.weights import Encoder, ExportError, FloatArray, save_encoder
from inference.golden import GOLDEN_FILE
from inference.training.tasks import SCOPE_TENSOR, TASKS

POST_PROCESSING_FILE = "heads.json"
BUCKETS_ROWS = "1,2,4,8,16,32"
BUCKETS_TOKENS = "8,16,32,64,128"
MAX_BATCH_ROWS = 64


def labels_file(task: str) -> str:
    """Name of a task's label file."""
    return f"{task}_labels.txt"


def config_text(name: str, dims: int, labels: Mapping[str, Sequence[str]]) -> str:
    """Write `config.pbtxt`.

    Args:
        name: Of the model.
        dims: Width of the embedding.
        labels: Task name to labels.
    """

    def tensor(name: str, dtype: str, size: int, task: str = "") -> str:
        label = f' label_filename: "{labels_file(task)}"' if task else ""
        return f'  {{ name: "{name}" data_type: {dtype} dims: [ {size} ]{label} }}'

    inputs = [tensor(x, "TYPE_INT32", -1) for x in ("input_ids", "attention_mask")]
    outputs = [tensor("embedding", "TYPE_FP32", dims)]
    outputs += [tensor(task.tensor, "TYPE_FP32", len(labels[task.name]), task.name) for task in TASKS]
    outputs.append(tensor(SCOPE_TENSOR, "TYPE_FP32", 1))
    outputs.append(tensor(CARRY, "TYPE_FP32", sum(len(labels[task.name]) for task in TASKS if task.in_context)))
    return "\n".join(
        [
            "# One encoder pass, every shared head. Weights are built from <version>/*.safetensors by",
            "# `cueline models build`: model.onnx (static int8, CPU), model.fp32.onnx, model.fp16.onnx (CUDA); the",
            "# parameter `precision` chooses another than the first.",
            f'name: "{name}"',
            'backend: "onnxruntime"',
            f"max_batch_size: {MAX_BATCH_ROWS}",
            "input [",
            ",\n".join(inputs),
            "]",
            "output [",
            ",\n".join(outputs),
            "]",
            "dynamic_batching { max_queue_delay_microseconds: 0 }",
            "instance_group [ { count: 1 } ]",
            "parameters [",
            f'  {{ key: "buckets_rows" value: {{ string_value: "{BUCKETS_ROWS}" }} }},',
            f'  {{ key: "buckets_tokens" value: {{ string_value: "{BUCKETS_TOKENS}" }} }}',
            "]",
            "",
        ]
    )


def check_labels(folder: Path, labels: Mapping[str, Sequence[str]]) -> None:
    """Check that a model folder's labels, where it has any yet, are those of the data.

    Raises:
        ExportError: If it has others: versions of one model share them, so other labels are another model.
    """
    for task, names in labels.items():
        path = folder / labels_file(task)
        if path.exists() and path.read_text() != _lines(names):
            raise ExportError(f"{path}: holds other labels than the data; versions of one model share their labels")


def _lines(names: Sequence[str]) -> str:
    return "\n".join(names) + "\n"


def write_model_folder(folder: Path, dims: int, labels: Mapping[str, Sequence[str]], tokenizer: Tokenizer) -> None:
    """Write what all versions share, or check that it is what is there.

    Raises:
        ExportError: If the folder has other labels.
    """
    check_labels(folder, labels)
    folder.mkdir(parents=True, exist_ok=True)
    shared = {labels_file(task): _lines(names) for task, names in labels.items()}
    shared["config.pbtxt"] = config_text(folder.name, dims, labels)
    for name, text in shared.items():
        if not (folder / name).exists():
            (folder / name).write_text(text)
    if not (folder / "tokenizer.json").exists():
        tokenizer.save(str(folder / "tokenizer.json"))


def declare_retrieval(folder: Path, dims: int) -> None:
    """Have the config name the vector to search by, last of the outputs.

    Raises:
        ExportError: If the config is not as `config_text` writes it.
    """
    path = folder / "config.pbtxt"
    head, last, tail = path.read_text().partition("\n]\ndynamic_batching")
    line = f'  {{ name: "{RETRIEVAL}" data_type: TYPE_FP32 dims: [ {dims} ] }}'
    if line not in head:
        if not last:
            raise ExportError(f"{path}: its outputs do not end where `dynamic_batching` begins; name {RETRIEVAL} there")
        path.write_text(f"{head},\n{line}{last}{tail}")


def write_weights(
    version: Path, encoder: Encoder, heads: Heads, ranges: dict[str, FloatArray], *, is_tuned: bool
) -> None:
    """Write one version's weights; an encoder that is the base model's is not written again."""
    version.mkdir(parents=True, exist_ok=True)
    save_heads(heads, version / HEADS_FILE)
    save_ranges(ranges, version / RANGES_FILE)
    if is_tuned:
        save_encoder(encoder, version / ENCODER_FILE)
    else:
        (version / ENCODER_FILE).unlink(missing_ok=True)


def prove(version: Path, tokenizer: Tokenizer, num_layers: int, report: Callable[[str], None]) -> None:
    """Record the golden answers of a built version, and verify every precision against them.

    Args:
        version: Its folder.
        tokenizer: Of the model.
        num_layers: Of its encoder.
        report: Called with what was found of each file.

    Raises:
        ExportError: If a file does not pass.
    """
    reference, served = (open_session(version / name) for name in (FP32_FILE, STATIC8_FILE))
    golden = make_golden(reference, served, {text: tokenizer.encode(text).ids for text in SENTENCES})
    write_golden(golden, version / GOLDEN_FILE)
    for verdict in verify_version(version, num_layers):
        report(f"{verdict.file}: cosine to fp32 {verdict.mean_cosine:.5f}")


def write_post_processing(version: Path, heads: Mapping[str, Mapping[str, Any]]) -> None:
    """Write `heads.json`, one head a line."""
    lines = ",\n".join(f" {json.dumps(tensor)}: {json.dumps(head)}" for tensor, head in heads.items())
    (version / POST_PROCESSING_FILE).write_text(f"{{\n{lines}\n}}\n")
