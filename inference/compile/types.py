"""Types of the values between nodes, known before anything runs. Each prints as errors name it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inference.graph import InputType
from inference.head_spec import HeadSpec


@dataclass(frozen=True, slots=True)
class Scalar:
    """A string, bool or float; `members` are the only strings it can be, empty where it can be any."""

    kind: str
    members: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.members:
            shown = ", ".join(self.members[:4]) + (", …" if len(self.members) > 4 else "")
            return f"one of {shown}"
        return self.kind


@dataclass(frozen=True, slots=True)
class Handed:
    """What the turn before handed on to this one's heads; absent where there was none."""

    def __str__(self) -> str:
        return "a carry"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of one row, made by the tokeniser of `model`."""

    model: str
    tokenizer_digest: str

    def __str__(self) -> str:
        return f"tokens of {self.model}"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of a tensor.

    Attributes:
        dtype: Triton's name, such as `FP32`.
        dims: Shape without the batch dimension, -1 where it varies.
        model: Model that made it.
        tensor: Name of the model's output; empty once another node has changed it.
    """

    dtype: str
    dims: tuple[int, ...]
    model: str
    tensor: str = ""

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclass(frozen=True, slots=True)
class Record:
    """An object with known keys."""

    keys: Mapping[str, Scalar | Record] = field(default_factory=dict)

    def __str__(self) -> str:
        return "{" + ", ".join(self.keys) + "}"


@dataclass(frozen=True, slots=True)
class Claims:
    """A list of `{label, score}`, best first; `labels` is None where the tenant brings them."""

    labels: tuple[str, ...] | None

    def __str__(self) -> str:
        return "[{label, score}]"


@dataclass(frozen=True, slots=True)
class Anything:
    """What a registered function returns."""

    def __str__(self) -> str:
        return "anything"


ValueType = Scalar | Handed | Tokens | Tensor | Record | Claims | Anything

_SCORE = Scalar("float")


def type_of_input(declared: InputType) -> Scalar | Handed:
    """Return the type of a declared input."""
    if declared == "carry":
        return Handed()
    return Scalar("string", declared) if isinstance(declared, tuple) else Scalar(declared)


def type_of_head(head: HeadSpec, labels: Sequence[str]) -> Record | Claims:
    """Return the type of the value that a head makes of its logits."""
    label = Scalar("string", tuple(labels))
    match head.kind:
        case "multi":
            return Claims(tuple(labels))
        case "binary":
            return Record({head.flag: Scalar("bool"), "score": _SCORE} if head.flag else {"score": _SCORE})
        case "distribution":
            return Record({"label": label, "score": _SCORE, "scores": Record(dict.fromkeys(labels, _SCORE))})
        case "single":
            scope = {"in_scope": Scalar("bool"), "in_scope_score": _SCORE} if head.scope else {}
            return Record({"label": label, "score": _SCORE, **scope})


def join_types(first: ValueType, second: ValueType) -> ValueType | None:
    """Return the type of a value that is one or the other; None where no node could read both."""
    match first, second:
        case Scalar(), Scalar() if first.kind == second.kind:
            both = first.members and second.members
            return Scalar(first.kind, tuple(dict.fromkeys(first.members + second.members)) if both else ())
        case Record(), Record() if first.keys.keys() == second.keys.keys():
            keys: dict[str, Scalar | Record] = {}
            for key, kind in first.keys.items():
                joined = join_types(kind, second.keys[key])
                if not isinstance(joined, Scalar | Record):
                    return None
                keys[key] = joined
            return Record(keys)
        case Tensor(), Tensor() if (first.dtype, first.dims) == (second.dtype, second.dims):
            return Tensor(first.dtype, first.dims, first.model if first.model == second.model else "")
        case Claims(), Claims():
            return Claims(
                tuple(dict.fromkeys((*first.labels, *second.labels))) if first.labels and second.labels else None
            )
    return first if first == second else None


def labels_of(kind: ValueType) -> frozenset[str] | None:
    """Return the labels that a value of this type can have; None where any may come, or it has none."""
    match kind:
        case Claims(labels) if labels is not None:
            return frozenset(labels)
        case Record(keys):
            label = keys.get("label")
            return frozenset(label.members) if isinstance(label, Scalar) else None
    return None
