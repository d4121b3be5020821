"""What goes into the engine and what comes out: requests, outputs, outcomes.

The server hands the engine a `Request` per utterance revision; the engine calls `on_outputs` with outputs the
moment its step is done, and `on_done` exactly once. Both run on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from inference.plan import Plan

EmbeddingArray = NDArray[np.float32]
"""`[rows, dims] float32`, L2-normalised per row."""


class RowClass(IntEnum):
    """Who goes first. Lower is sooner; ageing keeps the lower classes from starving."""

    FINAL = 0
    INTERIM = 1
    BACKGROUND = 2
    SHADOW = 3
    """A copy of a row that another version answers already; runs on a slot that nobody else wants, or never."""


class Outcome(IntEnum):
    """How a request ended; all but `DONE` are counted by reason."""

    DONE = 0
    SUPERSEDED = 1
    LATE = 2
    CANCELLED = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class PrototypeSet:
    """One tenant's labels by example, ready for the matrix product after the encoder.

    Attributes:
        name: Tenant and policy version it belongs to; part of the cache key.
        labels: Label of each class.
        thresholds: `[labels] float32`, lowest score at which a label is claimed.
        phrases: Example phrase of each vector.
        vectors: `[phrases, dims] float32`, L2-normalised.
        label_of: `[phrases] int32`, index into `labels` of each vector.
    """

    name: str
    labels: tuple[str, ...]
    thresholds: NDArray[np.float32]
    phrases: tuple[str, ...]
    vectors: EmbeddingArray
    label_of: NDArray[np.int32]


Prototypes = PrototypeSet | Mapping[int, PrototypeSet]
"""Vectors of one version compare with no other version's: a set for each version that may be asked, by number; or one
set where only one version ever is."""


@dataclass(frozen=True, slots=True, eq=False)
class Carry:
    """What a turn hands on to the turn after it: numbers to add to logits there, before they are scores.

    Attributes:
        model: Model that made it.
        version: Its version; another version's heads cannot read it, and leave it aside.
        numbers: `[columns] float32`, as the heads' `carry_first` cuts them.
    """

    model: str
    version: int
    numbers: NDArray[np.float32]

    def of(self, model: str, version: int) -> NDArray[np.float32] | None:
        """Return the numbers for the heads of this version; None where they are another's."""
        return self.numbers if self.version == version and self.model == model else None


class Output(msgspec.Struct, frozen=True, gc=False):
    """One output of one request. A `Struct`, because there are nine a row and it is built eight times as fast; out of
    the garbage collector's sight, because nothing that it holds ever holds it.

    Attributes:
        name: Graph output name.
        value: What DESIGN 13 prints, built of dicts, lists, strings, floats, bools; None where `when` was false.
        score: Leading score, None where the value has none.
        model: Model that claimed it, empty where none did.
        version: Its version, 0 where none.
        queue_ms: Time the row waited for its batch, to the microsecond.
        compute_ms: Time its batch ran, to the microsecond.
        started_s: Monotonic time at which the first batch with this row began (T6).
        ready_s: Monotonic time at which this output was ready (T7).
    """

    name: str
    value: Any
    score: float | None
    model: str
    version: int
    queue_ms: float
    compute_ms: float
    started_s: float
    ready_s: float


def _ignore_outputs(_: Sequence[Output]) -> None: ...


def _ignore_outcome(_: Outcome, __: BaseException | None) -> None: ...


@dataclass(slots=True, kw_only=True)
class Request:
    """One row's journey through a plan.

    Attributes:
        plan: From `Engine.compile`.
        inputs: Declared inputs by name, e.g. `{"text": …, "speaker": …, "is_final": …}`; of type `carry` a `Carry`, or
            None where no turn was before.
        owner: Call it belongs to; `Engine.cancel(owner)` drops what is queued.
        key: Utterance within the owner. A queued request of the same owner and key with a lower revision is superseded.
        revision: Grows with the utterance.
        row_class: Final, interim or background.
        deadline_s: Monotonic instant after which the answer is worthless.
        prototypes: The tenant's labels for `prototypes: tenant` nodes.
        pins: Model name to version, for calls pinned by policy; empty: what serves now.
        on_outputs: Called with the wanted outputs as their step ends: all that became ready together.
        on_done: Called exactly once, last.
    """

    plan: Plan
    inputs: Mapping[str, Any]
    owner: str
    key: str
    revision: int = 0
    row_class: RowClass = RowClass.FINAL
    deadline_s: float = float("inf")
    prototypes: Prototypes | None = None
    pins: Mapping[str, int] = field(default_factory=dict)
    on_outputs: Callable[[Sequence[Output]], None] = _ignore_outputs
    on_done: Callable[[Outcome, BaseException | None], None] = _ignore_outcome


Retrieve = Callable[[EmbeddingArray, Sequence[str], Sequence[Mapping[str, Any]]], Sequence[Any]]
"""A registered function: embeddings `[rows, dims]` (`[rows, 0]` where the node reads none), texts, and a mapping a row
with the declared inputs, the node's `params` and what it reads, by name; one value a row out. Runs in an engine thread,
never on the event loop."""
