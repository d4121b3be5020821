"""`heads.json`: how the logits of a model version become values.

One JSON object, a key for each logits tensor. The trainer writes it beside the weights, because temperature, bias
and thresholds belong to exactly these weights; the graph only says which head it wants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from inference.choices import one_of
from inference.errors import ModelError
from inference.model_config import FLOAT_DTYPES, ModelConfig
from inference.regular_file import read_small

HEADS_FILE = "heads.json"


class HeadSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Post-processing of one logits tensor `[rows, labels]`.

    Attributes:
        kind: `single` and `distribution` take a softmax over the labels, `multi` and `binary` a sigmoid of each.
        temperature: Logits are divided by it; one for all labels, or one a label (`multi`).
        bias: Added to each logit after the division.
        threshold: Lowest score at which a label is claimed (`multi`, `binary`).
        flag: Name of the boolean in a binary value, such as `is_question`; without it the value is only a score.
        scope: Tensor `[rows, 1]` with the logit of "one of our labels at all" (`single`).
        scope_temperature: Its temperature.
        scope_bias: Added to the scope logit after the division.
        scope_threshold: Lowest scope score that counts as in scope.
        speakers: Labels that each speaker can have (`multi`); a speaker that is not named can have all.
        carry: Tensor that a turn hands on to the next one: columns of it are added to the next one's logits.
        carry_first: First of these columns; one a label.
    """

    kind: Literal["single", "distribution", "multi", "binary"]
    temperature: float | list[float] = 1.0
    bias: list[float] | None = None
    threshold: float | list[float] = 0.5
    flag: str | None = None
    scope: str | None = None
    scope_temperature: float = 1.0
    scope_bias: float = 0.0
    scope_threshold: float = 0.5
    speakers: dict[str, list[str]] | None = None
    carry: str | None = None
    carry_first: int = 0


def read_heads(
    file: Path, where: str, config: ModelConfig, labels: Mapping[str, Sequence[str]]
) -> Mapping[str, HeadSpec]:
    """Read and check the heads of one version; a version without the file has none.

    Args:
        file: `heads.json` of the version.
        where: How errors name that file.
        config: Config of the model.
        labels: Labels of each output tensor that has some.

    Raises:
        ModelError: Naming file and key, if a head does not fit the tensors or labels of the model.
    """
    try:
        content = msgspec.json.decode(read_small(file))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"cannot be read ({type(error).__name__})", path=where) from error
    except msgspec.DecodeError as error:
        raise ModelError(f"is no JSON: {error}", path=where) from error
    if not isinstance(content, dict):
        raise ModelError("expected an object with a key for each logits tensor", path=where)
    heads = {tensor: _read_head(tensor, raw, where) for tensor, raw in sorted(content.items())}
    for tensor, head in heads.items():
        _check(tensor, head, where, config, labels.get(tensor, ()))
    return heads


def _read_head(tensor: str, raw: Any, where: str) -> HeadSpec:
    try:
        return msgspec.convert(raw, HeadSpec)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`")
        if problem.startswith("Invalid enum value"):
            problem += one_of(HeadSpec, path)
        raise ModelError(problem, path=where, key=tensor + path) from error


def _check(tensor: str, head: HeadSpec, where: str, config: ModelConfig, labels: Sequence[str]) -> None:
    def refuse(key: str, problem: str) -> ModelError:
        return ModelError(problem, path=where, key=f"{tensor}.{key}" if key else tensor)

    spec = config.output(tensor)
    if spec is None:
        raise refuse("", f"the model has no output of that name, it has {', '.join(t.name for t in config.outputs)}")
    if spec.dtype not in FLOAT_DTYPES or len(spec.dims) != 1:
        raise refuse("", f"expected a row of floats, given {spec}")
    width = len(labels) or spec.size
    if head.kind == "binary":
        if spec.size != 1:
            raise refuse("kind", f"binary expected FP32[1], given {spec}")
    elif not labels:
        raise refuse("kind", f"{head.kind} needs labels: give the output a label_filename in config.pbtxt")
    for key, value in (("temperature", head.temperature), ("bias", head.bias), ("threshold", head.threshold)):
        if isinstance(value, list) and len(value) != width:
            raise refuse(key, f"expected {width} numbers, one a label, given {len(value)}")
    temperatures = head.temperature if isinstance(head.temperature, list) else [head.temperature]
    if min(temperatures) <= 0 or head.scope_temperature <= 0:
        raise refuse("temperature", "expected positive numbers")
    if isinstance(head.temperature, list) and head.kind in ("single", "distribution"):
        raise refuse("temperature", f"{head.kind} takes one number, labels share a softmax")
    if head.flag is not None and (head.kind != "binary" or not head.flag.isidentifier() or head.flag == "score"):
        raise refuse("flag", f"expected a name other than score, on a binary head; given {head.flag!r} on {head.kind}")
    if head.scope is not None:
        scope = config.output(head.scope)
        if head.kind != "single":
            raise refuse("scope", f"only a single head has one, this is {head.kind}")
        if scope is None or scope.size != 1 or scope.dtype not in FLOAT_DTYPES:
            raise refuse("scope", f"expected an output FP32[1], given {head.scope!r} {scope or '(no such output)'}")
    if head.carry is not None:
        carry = config.output(head.carry)
        if carry is None or carry.dtype not in FLOAT_DTYPES or len(carry.dims) != 1:
            raise refuse("carry", f"expected a row of floats, given {head.carry!r} {carry or '(no such output)'}")
        if head.carry_first < 0 or head.carry_first + width > carry.size:
            raise refuse("carry_first", f"columns {head.carry_first} and {width - 1} more are not all in {carry}")
    if head.speakers is not None:
        if head.kind != "multi":
            raise refuse("speakers", f"only a multi head has them, this is {head.kind}")
        unknown = sorted({label for chosen in head.speakers.values() for label in chosen} - set(labels))
        if unknown:
            raise refuse("speakers", f"{unknown[0]!r} is no label of this tensor")
