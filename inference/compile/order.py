"""Pass 8, order: vertices in running order, and at last slots instead of names.

A group stays together, right behind its model node. Of what could run next, `retrieve` and `python` go last, because
their functions may be slow and must hold back nothing that does not need them; then the tightest budget goes first, so
that cheap outputs leave early. The name decides between equals, never the order of declaration.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from inference.compile.draft import Draft, Vertex
from inference.plan import Condition, Op, Plan, Slot, Step
from inference.when import ALWAYS, Predicate


def order(draft: Draft) -> Draft:
    """Put the vertices into running order, and number the groups as they come."""
    dependencies = draft.dependencies()
    model_of_group = {v.group: v.name for v in draft.vertices.values() if v.group and v.op is Op.MODEL}
    # A group is one unit, named after its model node.
    unit_of = {v.name: model_of_group.get(v.group, v.name) for v in draft.vertices.values()}
    units: dict[str, list[Vertex]] = {}
    for vertex in draft.vertices.values():
        units.setdefault(unit_of[vertex.name], []).append(vertex)
    waiting: dict[str, set[str]] = {unit: set() for unit in units}
    for name, needed in dependencies.items():
        waiting[unit_of[name]].update(unit_of[other] for other in needed if unit_of[other] != unit_of[name])
    dependents: dict[str, list[str]] = {unit: [] for unit in units}
    for unit, needed_units in waiting.items():
        for other in needed_units:
            dependents[other].append(unit)

    def urgency(unit: str) -> tuple[bool, float, str]:
        vertex = draft.vertices[unit]
        is_slow = vertex.op in (Op.RETRIEVE, Op.PYTHON)
        return (is_slow, float("inf") if vertex.budget_ms is None else vertex.budget_ms, unit)

    ready = [urgency(unit) for unit, needed_units in waiting.items() if not needed_units]
    heapq.heapify(ready)
    ordered: dict[str, Vertex] = {}
    groups: dict[int, int] = {0: 0}
    while ready:
        *_, unit = heapq.heappop(ready)
        for vertex in sorted(units[unit], key=lambda v: (v.name != unit, v.name)):
            group = groups.setdefault(vertex.group, len(groups))
            ordered[vertex.name] = replace(vertex, group=group)
        for dependent in dependents[unit]:
            waiting[dependent].discard(unit)
            if not waiting[dependent]:
                heapq.heappush(ready, urgency(dependent))
    return replace(draft, vertices=ordered)


def lower(draft: Draft) -> Plan:
    """Turn an ordered draft into a frozen plan: declared inputs take the first slots, then what each step writes."""
    names = [*draft.inputs, *(value for vertex in draft.vertices.values() for value in vertex.writes)]
    slot_of = {name: Slot(index) for index, name in enumerate(names)}
    steps = tuple(
        Step(
            node=vertex.name,
            op=vertex.op,
            inputs=tuple(slot_of[value] for value in vertex.reads),
            outputs=tuple(slot_of[value] for value in vertex.writes),
            when=None if vertex.when == ALWAYS else _condition(vertex.when, slot_of),
            model=vertex.model,
            tensors=vertex.tensors,
            budget_ms=vertex.budget_ms,
            group=vertex.group,
            params=vertex.params,
        )
        for vertex in draft.vertices.values()
    )
    by_readiness = sorted(draft.outputs.items(), key=lambda item: (slot_of[item[1]], item[0]))
    body: dict[str, Any] = {
        "inputs": {name: slot_of[name] for name in draft.inputs},
        "slots": tuple(names),
        "steps": steps,
        "outputs": {name: slot_of[value] for name, value in by_readiness},
        "buckets": dict(draft.buckets),
        "backend": dict(draft.backend),
    }
    return Plan(graph=draft.graph, structure=_digest(body), **body)


def _condition(predicate: Predicate, slot_of: Mapping[str, Slot]) -> Condition:
    return Condition(
        kind=predicate.kind,
        operands=tuple(_condition(operand, slot_of) for operand in predicate.operands),
        slot=slot_of[predicate.name] if predicate.name else None,
        path=predicate.path,
        constant=predicate.constant,
    )


def _digest(body: Mapping[str, Any]) -> str:
    encoded = msgspec.json.encode(body, order="sorted")
    return hashlib.sha256(encoded).hexdigest()[:16]
