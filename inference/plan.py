"""The compiled result: a frozen, flat list of steps over a table of slots.

A graph is compiled once by `inference.compile`; the engine runs a plan with a short loop and decides nothing.
Every row has one value table; a slot is an index into it. Declared inputs come first, then what steps produce.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NewType

Slot = NewType("Slot", int)


class Op(Enum):
    """What a step does. `RETRIEVE` and `PYTHON` are registered by the server at start."""

    TOKENIZE = "tokenize"
    MODEL = "model"
    POOL = "pool"
    CLASSIFY = "classify"
    SELECT = "select"
    RETRIEVE = "retrieve"
    PYTHON = "python"


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled `when`: comparisons joined by and, or, not. Data, never code.

    Attributes:
        kind: `and`, `or`, `not`, `truthy` or a comparison (`==`, `!=`, `<`, `<=`, `>`, `>=`).
        operands: Conditions below `and`, `or`, `not`; empty for leaves.
        slot: What a leaf looks at; None for inner nodes.
        path: Keys into that slot's value, such as `("is_question",)`.
        constant: What a comparison compares with.
    """

    kind: str
    operands: tuple[Condition, ...] = ()
    slot: Slot | None = None
    path: tuple[str, ...] = ()
    constant: str | float | bool | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the plan.

    Attributes:
        node: Name of the declared node (of the representative, where equal nodes were merged).
        op: What to do.
        inputs: Slots read.
        outputs: Slots written, in the order of `tensors` for a model step, else exactly one.
        when: Rows for which this is false skip the step, and their outputs are None. None: every row.
        model: Model of `TOKENIZE`, `MODEL`, `CLASSIFY` steps, else empty.
        tensors: Model output names behind `outputs` (`MODEL`), or model output names read (`CLASSIFY`).
        budget_ms: Declared budget of the node, if any.
        group: Steps of one fused group share a number; post-processing of a group is one pass over the batch.
        params: The rest of the declaration (`prototypes`, `function`, `top_k`, …), read by the op.
    """

    node: str
    op: Op
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    when: Condition | None = None
    model: str = ""
    tensors: tuple[str, ...] = ()
    budget_ms: float | None = None
    group: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bucket:
    """One rung of the ladder of shapes that a model is warmed on."""

    rows: int
    tokens: int

    @property
    def padded_tokens(self) -> int:
        """Cost of the bucket: rows x tokens."""
        return self.rows * self.tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph compiled for one set of wanted outputs. Hashable by `structure`, shared by all calls that want the same.

    Attributes:
        graph: Name of the graph.
        structure: Digest of everything below; the key of the plan cache.
        inputs: Declared input name to slot.
        slots: Name of each slot, such as `text`, `tokens`, `utterance.embedding`, `intent`.
        steps: In running order.
        outputs: Output name to slot, in the order in which they become ready.
        buckets: Ladder of each model, ascending.
        backend: Model name to backend name (`onnxruntime`, `triton`, `fake`).
    """

    graph: str
    structure: str
    inputs: Mapping[str, Slot]
    slots: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: Mapping[str, Slot]
    buckets: Mapping[str, tuple[Bucket, ...]]
    backend: Mapping[str, str]

    def __hash__(self) -> int:
        return hash(self.structure)
