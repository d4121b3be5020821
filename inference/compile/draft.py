"""What passes hand to each other: a `Draft`, the graph on its way to a plan.

A *value* is a declared input (`text`), the result of a node (`intent`) or one output tensor of a model node
(`utterance.embedding`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from inference.compile.types import ValueType
from inference.graph import InputType
from inference.plan import Bucket, Op
from inference.when import ALWAYS, Predicate


@dataclass(frozen=True, slots=True)
class Vertex:
    """One node on its way to a step.

    Attributes:
        name: Its name.
        op: What it does.
        reads: Values read, in order.
        when: Rows that enter it.
        model: Model of `TOKENIZE`, `MODEL`, `CLASSIFY`.
        tensors: Model outputs behind what it writes (`MODEL`) or behind its first reads (`CLASSIFY`).
        budget_ms: Declared budget.
        group: Fused group, 0 for none.
        params: What else the op reads.
    """

    name: str
    op: Op
    reads: tuple[str, ...]
    when: Predicate = ALWAYS
    model: str = ""
    tensors: tuple[str, ...] = ()
    budget_ms: float | None = None
    group: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def writes(self) -> tuple[str, ...]:
        """Values written."""
        return tuple(f"{self.name}.{tensor}" for tensor in self.tensors) if self.op is Op.MODEL else (self.name,)

    @property
    def needs(self) -> frozenset[str]:
        """Values that must be there before it runs: what it reads, and what its condition looks at."""
        return self.when.names().union(self.reads)


@dataclass(frozen=True, slots=True)
class Draft:
    """A graph between two passes.

    Attributes:
        graph: Name of the graph.
        inputs: Declared inputs by name, ascending.
        vertices: By name; ascending until the pass `order`, from then on in running order.
        outputs: Output name to value.
        types: Type of each value.
        buckets: Ladder of each model, from the pass `bucket` on.
        backend: Backend of each model, from the pass `place` on.
    """

    graph: str
    inputs: Mapping[str, InputType]
    vertices: Mapping[str, Vertex]
    outputs: Mapping[str, str]
    types: Mapping[str, ValueType]
    buckets: Mapping[str, tuple[Bucket, ...]] = field(default_factory=dict)
    backend: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """How errors name the graph."""
        return f"{self.graph}.yaml"

    @property
    def models(self) -> tuple[str, ...]:
        """Models that run, ascending."""
        return tuple(sorted({vertex.model for vertex in self.vertices.values() if vertex.op is Op.MODEL}))

    def writers(self) -> Mapping[str, str]:
        """Return the vertex that writes each value; declared inputs have none."""
        return {value: vertex.name for vertex in self.vertices.values() for value in vertex.writes}

    def dependencies(self) -> Mapping[str, frozenset[str]]:
        """Return the vertices whose values each vertex needs."""
        writers = self.writers()
        return {
            name: frozenset(writers[value] for value in vertex.needs if value in writers)
            for name, vertex in self.vertices.items()
        }

    def with_vertices(self, vertices: Iterable[Vertex]) -> Draft:
        """Return the draft with these vertices, and only the types of values that are left."""
        kept = {vertex.name: vertex for vertex in sorted(vertices, key=lambda vertex: vertex.name)}
        values = {value for vertex in kept.values() for value in vertex.writes} | set(self.inputs)
        types = {value: kind for value, kind in self.types.items() if value in values}
        return replace(self, vertices=kept, types=types)


def sort_by_dependency(dependencies: Mapping[str, Iterable[str]]) -> tuple[list[str], list[str]]:
    """Order names so that each comes after what it depends on; ties in ascending order of depth, then name.

    Args:
        dependencies: Name to the names it depends on, all of which are keys.

    Returns:
        The order, and the names that are left over because they are part of a cycle or behind one.
    """
    waiting = {name: set(needed) for name, needed in dependencies.items()}
    dependents: dict[str, list[str]] = {name: [] for name in waiting}
    for name, needed in waiting.items():
        for dependency in needed:
            dependents[dependency].append(name)
    order: list[str] = []
    ready = sorted(name for name, needed in waiting.items() if not needed)
    while ready:
        order.extend(ready)
        freed = []
        for name in ready:
            for dependent in dependents[name]:
                waiting[dependent].discard(name)
                if not waiting[dependent]:
                    freed.append(dependent)
        ready = sorted(freed)
    return order, sorted(waiting.keys() - set(order))
