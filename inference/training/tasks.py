"""The heads: which tensor answers which task, in which labels, and how its logits become scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

SENTIMENTS = ("negative", "neutral", "positive")
SPEAKERS = ("customer", "agent")


class Kind(Enum):
    """How logits become scores. The values are those of `heads.json`."""

    SINGLE = "single"
    DISTRIBUTION = "distribution"
    MULTI = "multi"
    BINARY = "binary"

    @property
    def is_softmax(self) -> bool:
        """Whether exactly one label is true."""
        return self in (Kind.SINGLE, Kind.DISTRIBUTION)


@dataclass(frozen=True, slots=True)
class Task:
    """One head.

    Attributes:
        name: Name of the graph output, such as `intent`.
        kind: How its logits become scores.
        in_context: Whether the turn before adds to its logits.
    """

    name: str
    kind: Kind
    in_context: bool = False

    @property
    def tensor(self) -> str:
        """Model output that carries the logits."""
        return f"{self.name}_logits"


TASKS = (
    Task("intent", Kind.SINGLE),
    Task("intent_banking", Kind.SINGLE),
    Task("intent_modular", Kind.MULTI),
    Task("sentiment", Kind.DISTRIBUTION),
    Task("dissatisfied", Kind.BINARY, in_context=True),
    Task("acts", Kind.MULTI, in_context=True),
    Task("actions", Kind.MULTI),
    Task("question", Kind.BINARY),
)
"""In the order of the model's outputs. Sentiment stands alone: on MELD the turn before costs 0.01 of weighted F1."""

SCOPE_TENSOR = "intent_scope"


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled texts of one task.

    Attributes:
        task: What is labelled.
        labels: Label names, in the order of the logits.
        texts: One a row.
        targets: `[rows, labels] float32` in 0..1; a softmax task has one 1 a row.
        mask: `[rows, labels] float32`, 1 where the target is known.
        groups: Dialogue or other unit that must not be torn between splits, one a row.
        sources: Data set of each row.
        speakers: `customer`, `agent` or empty where unknown, one a row.
        before: What was said in the turn before, empty where nothing was or nobody knows, one a row.
    """

    task: Task
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    targets: FloatArray
    mask: FloatArray
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    speakers: tuple[str, ...]
    before: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that every column has a row for every text.

        Raises:
            ValueError: If they differ.
        """
        shape = (len(self.texts), len(self.labels))
        if self.targets.shape != shape or self.mask.shape != shape:
            raise ValueError(
                f"{self.task.name}: targets {self.targets.shape}, mask {self.mask.shape}, expected {shape}"
            )
        if {len(self.texts)} != set(map(len, (self.groups, self.sources, self.speakers, self.before))):
            raise ValueError(f"{self.task.name}: columns differ in length")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: NDArray[np.intp]) -> Examples:
        """Keep these rows, in this order."""
        return Examples(
            task=self.task,
            labels=self.labels,
            texts=tuple(self.texts[i] for i in rows),
            targets=self.targets[rows],
            mask=self.mask[rows],
            groups=tuple(self.groups[i] for i in rows),
            sources=tuple(self.sources[i] for i in rows),
            speakers=tuple(self.speakers[i] for i in rows),
            before=tuple(self.before[i] for i in rows),
        )

    def alone(self) -> Examples:
        """Forget what was said before."""
        return replace(self, before=("",) * len(self))

    def rewritten(self, write: Callable[[str], str]) -> Examples:
        """Write every text anew, those of the turns before as well."""
        return replace(self, texts=tuple(map(write, self.texts)), before=tuple(map(write, self.before)))


def sample(rows: Examples, number: int, seed: int = 0) -> Examples:
    """Draw at most so many rows, in their order and the same each time.

    By chance and not by stride: speakers take turns, and every second row would be one side only.
    """
    drawn = np.random.default_rng(seed).permutation(len(rows))[:number]
    return rows.take(np.sort(drawn))


def join(parts: list[Examples]) -> Examples:
    """Put examples of one task and the same labels under each other.

    Raises:
        ValueError: If there are none, or tasks or labels differ.
    """
    if not parts:
        raise ValueError("nothing to join")
    first = parts[0]
    if any(part.task != first.task or part.labels != first.labels for part in parts):
        raise ValueError(f"{first.task.name}: parts differ in task or labels")
    return Examples(
        task=first.task,
        labels=first.labels,
        texts=sum((part.texts for part in parts), ()),
        targets=np.concatenate([part.targets for part in parts]),
        mask=np.concatenate([part.mask for part in parts]),
        groups=sum((part.groups for part in parts), ()),
        sources=sum((part.sources for part in parts), ()),
        speakers=sum((part.speakers for part in parts), ()),
        before=sum((part.before for part in parts), ()),
    )
