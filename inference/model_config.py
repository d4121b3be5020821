"""Triton's `config.pbtxt`: text → message → `ModelConfig`, the part that the engine acts on, and back to text.

A field that the schema lacks is skipped and named in `ModelConfig.ignored`: a newer Triton may know more than we do,
but a misspelt key must not vanish in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format

from inference.errors import ModelError
from inference.regular_file import read_small
from inference.triton_schema import DATA_TYPE_NAMES, ConfigMessage

CONFIG_FILE = "config.pbtxt"

NUMPY_DTYPES: Mapping[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "STRING": np.object_,
}
"""Short name of a Triton data type to numpy's; `BF16` has none."""

FLOAT_DTYPES = frozenset({"FP16", "FP32", "FP64"})


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: As in the config and in the weights.
        dtype: Triton's name without `TYPE_`, such as `FP32`.
        dims: Shape without the batch dimension; -1 varies from batch to batch.
        label_file: File of labels in the model folder, empty where there is none.
        optional: Whether an input may be left out.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    label_file: str = ""
    optional: bool = False

    @property
    def size(self) -> int:
        """Numbers in one row; -1 if it varies."""
        return -1 if -1 in self.dims else math.prod(self.dims)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions are to be served: the newest `latest`, or exactly `specific`, or all where both are empty."""

    latest: int = 1
    specific: tuple[int, ...] = ()

    def choose(self, versions: Mapping[int, object]) -> tuple[int, ...]:
        """Return the versions to serve of those present, newest first."""
        newest_first = sorted(versions, reverse=True)
        if self.specific:
            return tuple(version for version in newest_first if version in self.specific)
        return tuple(newest_first[: self.latest] if self.latest else newest_first)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What one model takes, gives and allows.

    Attributes:
        name: Name of the model and of its folder.
        backend: What runs it, such as `onnxruntime`.
        max_batch_size: Rows a batch at most; 0 means that the model has no batch dimension.
        inputs: In the order of the file.
        outputs: In the order of the file.
        versions: Which versions are served.
        instances: Copies to run side by side.
        preferred_batch_sizes: Dynamic batching's hint to Triton.
        max_queue_delay_us: Longest wait for company that the config asks of Triton.
        default_model_file: File name of the weights where it is not the backend's own.
        parameters: Free keys, such as `precision`, `buckets_rows`.
        ignored: The first field of the file that we do not know, for the operator to see; empty where there is none.
    """

    name: str
    backend: str
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    versions: VersionPolicy = VersionPolicy()
    instances: int = 1
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    default_model_file: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    ignored: str = ""

    def input(self, name: str) -> TensorSpec | None:
        """Return the input of that name, None if there is none."""
        return next((tensor for tensor in self.inputs if tensor.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        """Return the output of that name, None if there is none."""
        return next((tensor for tensor in self.outputs if tensor.name == name), None)


def parse_config(text: str, where: str) -> tuple[Any, str]:
    """Read the text form into a `ConfigMessage`.

    Args:
        text: Content of a `config.pbtxt`.
        where: Path that an error names.

    Returns:
        The message, whose fields are those of the public schema, and the place of the first unknown field that was
        skipped, empty where there is none.

    Raises:
        ModelError: If the text is no model config.
    """
    ignored = ""
    message = ConfigMessage()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as strict:
        message = ConfigMessage()
        try:
            text_format.Parse(text, message, allow_unknown_field=True)
        except text_format.ParseError as error:
            raise ModelError(_without_position(error), path=where, key=f"line {error.GetLine()}") from error
        ignored = f"line {strict.GetLine()}: {_without_position(strict)}"
    return message, ignored


def render_config(message: Any) -> str:
    """Return the text form of a `ConfigMessage`, as `parse_config` reads it."""
    return str(text_format.MessageToString(message))


def read_config(folder: Path, where: str) -> ModelConfig:
    """Read and check the `config.pbtxt` of one model folder.

    Args:
        folder: Folder of the model.
        where: How errors name that folder.

    Raises:
        ModelError: Naming file and key, if the file is missing, unreadable or contradicts itself.
    """
    where = f"{where}/{CONFIG_FILE}"
    try:
        text = read_small(folder / CONFIG_FILE).decode("utf-8")
    except FileNotFoundError as error:
        raise ModelError("no such file", path=where) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot be read ({type(error).__name__})", path=where) from error
    message, ignored = parse_config(text, where)
    return describe_config(message, where, folder=folder.name, ignored=ignored)


def describe_config(message: Any, where: str, *, folder: str = "", ignored: str = "") -> ModelConfig:
    """Turn a `ConfigMessage` into what the engine acts on.

    Args:
        message: From `parse_config`.
        where: Path that an error names.
        folder: Name of the model folder, which is the model's name.
        ignored: The unknown field met while parsing.

    Raises:
        ModelError: Naming file and key, if the config contradicts itself or the folder.
    """

    def refuse(key: str, problem: str) -> ModelError:
        return ModelError(problem, path=where, key=key)

    name = message.name or folder
    if folder and name != folder:
        raise refuse("name", f"expected the folder's name {folder!r}, given {name!r}")
    backend = message.backend or message.platform.split("_", 1)[0]
    if not backend:
        raise refuse("backend", "neither backend nor platform is given")
    if message.max_batch_size < 0:
        raise refuse("max_batch_size", f"expected 0 or more, given {message.max_batch_size}")
    policy = message.version_policy
    if policy.HasField("all"):
        versions = VersionPolicy(latest=0)
    elif policy.HasField("specific"):
        versions = VersionPolicy(latest=0, specific=tuple(policy.specific.versions))
        if not versions.specific:
            raise refuse("version_policy.specific", "names no version")
    else:
        versions = VersionPolicy(latest=policy.latest.num_versions or 1)
    batching = message.dynamic_batching
    too_large = [size for size in batching.preferred_batch_size if not 0 < size <= message.max_batch_size]
    if too_large:
        raise refuse(
            "dynamic_batching.preferred_batch_size",
            f"expected sizes from 1 to max_batch_size {message.max_batch_size}, given {too_large[0]}",
        )
    return ModelConfig(
        name=name,
        backend=backend,
        max_batch_size=message.max_batch_size,
        inputs=_describe_tensors(message.input, "input", where),
        outputs=_describe_tensors(message.output, "output", where),
        versions=versions,
        instances=sum(group.count or 1 for group in message.instance_group) or 1,
        preferred_batch_sizes=tuple(batching.preferred_batch_size),
        max_queue_delay_us=batching.max_queue_delay_microseconds,
        default_model_file=message.default_model_filename,
        parameters={key: message.parameters[key].string_value for key in sorted(message.parameters)},
        ignored=ignored,
    )


def _describe_tensors(tensors: Any, side: str, where: str) -> tuple[TensorSpec, ...]:
    if not tensors:
        raise ModelError("the model has none", path=where, key=side)
    specs: list[TensorSpec] = []
    for index, tensor in enumerate(tensors):
        key = f"{side}[{index}]"
        dtype = DATA_TYPE_NAMES.get(tensor.data_type, "INVALID")
        if not tensor.name:
            raise ModelError("is missing", path=where, key=f"{key}.name")
        if any(spec.name == tensor.name for spec in specs):
            raise ModelError(f"{tensor.name!r} is declared twice", path=where, key=f"{key}.name")
        if dtype == "INVALID":
            raise ModelError("is missing", path=where, key=f"{key}.data_type")
        if not tensor.dims or any(dim != -1 and dim <= 0 for dim in tensor.dims):
            raise ModelError(
                f"expected positive numbers or -1, given {list(tensor.dims)}", path=where, key=f"{key}.dims"
            )
        specs.append(
            TensorSpec(
                name=tensor.name,
                dtype=dtype,
                dims=tuple(tensor.dims),
                label_file=tensor.label_filename if side == "output" else "",
                optional=tensor.optional if side == "input" else False,
            )
        )
    return tuple(specs)


def _without_position(error: text_format.ParseError) -> str:
    """Return the parser's text without its leading `line:column :` and without our internal package name."""
    text = str(error)
    head, _, tail = text.partition(" : ")
    return (tail if tail and head.replace(":", "").isdigit() else text).replace("cueline.triton.", "")
