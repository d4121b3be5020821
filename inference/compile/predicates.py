"""Pass 4, push predicates down: a row enters only the nodes whose results it will use.

Going from the outputs to the inputs, a node takes over the condition under which anything reads it: an encoder that
serves two heads, both for customers, runs for customers. A condition may look at the result of another node; then this
node waits for that one, unless that one waits for it already. In that case the condition is weakened to what is known.
"""

from __future__ import annotations

from dataclasses import replace

from inference.compile.draft import Draft, sort_by_dependency
from inference.compile.logic import conjunction, cover_members, disjunction, is_large, weaken
from inference.compile.prune import sweep
from inference.when import ALWAYS, Predicate

MAX_ALTERNATIVES = 8
"""Readers with more different conditions than this are taken to be any row: asking would cost more than it saves."""


def push_predicates(draft: Draft) -> Draft:
    """Narrow the condition of each node to the rows that somebody reads it for."""
    writers = draft.writers()
    vertices = dict(draft.vertices)
    dependents: dict[str, set[str]] = {name: set() for name in vertices}
    dependencies = draft.dependencies()
    for name, needed in dependencies.items():
        for dependency in needed:
            dependents[dependency].add(name)
    wanted = {writers[value] for value in draft.outputs.values()}
    order, _ = sort_by_dependency(dependencies)
    for name in reversed(order):
        vertex = vertices[name]
        if name in wanted:
            need = ALWAYS
        else:
            readers = [
                vertices[reader].when
                for reader in sorted(dependents[name])
                if not vertices[reader].needs.isdisjoint(vertex.writes)
            ]
            need = _need(readers, name, dependents, draft)
        narrowed = cover_members(conjunction((vertex.when, need)), draft.inputs)
        if is_large(narrowed):
            narrowed = vertex.when
        for looked_at in narrowed.names() & vertices.keys():
            dependents[looked_at].add(name)
        vertices[name] = replace(vertex, when=narrowed)
    return sweep(draft.with_vertices(vertices.values()))


def _need(readers: list[Predicate], name: str, dependents: dict[str, set[str]], draft: Draft) -> Predicate:
    """Return the condition under which some reader needs `name`, as far as it is known before `name` runs."""
    looked_at = {other for reader in readers for other in reader.names() if other not in draft.inputs}
    behind = _reachable(name, dependents) if looked_at else {name}
    need = disjunction(weaken(reader, lambda other: other not in behind) for reader in readers)
    need = cover_members(need, draft.inputs)
    return ALWAYS if need.kind == "or" and len(need.operands) > MAX_ALTERNATIVES else need


def _reachable(name: str, dependents: dict[str, set[str]]) -> set[str]:
    """Return `name` and all that waits for it, directly or not."""
    found = {name}
    frontier = [name]
    while frontier:
        for dependent in dependents[frontier.pop()] - found:
            found.add(dependent)
            frontier.append(dependent)
    return found
