"""Pass 3, merge: equal nodes of all policies and tenants become one, so an encoder runs once for every head.

Two nodes are equal if op, model, inputs and parameters are, under whatever names and in whatever graph. Tokenising
and encoding merge even under different conditions: they then enter the rows of either, which costs nothing and
changes nothing, because what reads them has its own condition. Anything else must have the same condition too, as its
absence is visible. `python` and `retrieve` functions are taken to depend on their inputs only.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import msgspec

from inference.compile.draft import Draft, Vertex, sort_by_dependency
from inference.compile.logic import disjunction, is_large, normalise, weaken
from inference.compile.prune import sweep
from inference.errors import GraphError
from inference.graph import InputType
from inference.plan import Op
from inference.when import ALWAYS, Predicate

_INVISIBLE = (Op.TOKENIZE, Op.MODEL)
_SEPARATOR = "/"  # no part of a name


def merge(drafts: Sequence[Draft]) -> Draft:
    """Merge equal nodes, within one draft or across several.

    Args:
        drafts: Pruned drafts, of one graph or of several. Names that mean different things in different graphs are
            told apart as `graph/name`.

    Raises:
        GraphError: If two graphs declare one input with different types, or have one name but are not the same.
    """
    joined = _join(drafts)
    order, _ = sort_by_dependency(joined.dependencies())
    class_of: dict[str, str] = {}
    members: dict[str, list[Vertex]] = {}
    for name in order:
        vertex = joined.vertices[name]
        key = _key(vertex, class_of)
        class_of[name] = key
        members.setdefault(key, []).append(vertex)
    names = _choose_names(members, joined.inputs)
    new_name = {name: names[key] for name, key in class_of.items()}

    def rename(value: str) -> str:
        head, dot, tensor = value.partition(".")
        return new_name.get(head, head) + dot + tensor

    merged = [
        replace(
            equal[0],
            name=names[key],
            reads=tuple(map(rename, equal[0].reads)),
            when=_join_conditions([normalise(vertex.when.rename(rename)) for vertex in equal], joined.inputs),
            budget_ms=min((v.budget_ms for v in equal if v.budget_ms is not None), default=None),
        )
        for key, equal in members.items()
    ]
    types = {rename(value): kind for value, kind in joined.types.items()}
    outputs = _shorten({name: rename(value) for name, value in joined.outputs.items()})
    return sweep(replace(joined, outputs=outputs, types=types).with_vertices(merged))


def _key(vertex: Vertex, class_of: Mapping[str, str]) -> str:
    """Return a key that two vertices share if one can stand for the other."""

    def canonical(value: str) -> str:
        head, dot, tensor = value.partition(".")
        return class_of[head] + dot + tensor if head in class_of else value

    when = "" if vertex.op in _INVISIBLE else str(normalise(vertex.when.rename(canonical)))
    reads = [canonical(value) for value in vertex.reads]
    parts = (vertex.op.value, vertex.model, reads, vertex.params, when)
    return hashlib.blake2b(msgspec.json.encode(parts, order="deterministic"), digest_size=12).hexdigest()


def _join_conditions(conditions: Sequence[Predicate], inputs: Collection[str]) -> Predicate:
    """Return the condition of a merged node.

    Where its parts differ, only what they say of declared inputs is kept: one part may look at a result that is
    behind another, and the merged node would wait for itself. Pushing predicates down makes up for it.
    """
    if all(condition == conditions[0] for condition in conditions):
        return conditions[0]
    joined = disjunction(weaken(condition, lambda name: name in inputs) for condition in conditions)
    return ALWAYS if is_large(joined) else joined


def _choose_names(members: Mapping[str, Sequence[Vertex]], taken: Collection[str]) -> Mapping[str, str]:
    """Name each class after its first member, without the graph where that is unambiguous."""
    full = {key: min((vertex.name for vertex in equal), key=lambda n: (_bare(n), n)) for key, equal in members.items()}
    shared = Counter(map(_bare, full.values()))
    return {key: name if shared[_bare(name)] > 1 or _bare(name) in taken else _bare(name) for key, name in full.items()}


def _shorten(outputs: Mapping[str, str]) -> Mapping[str, str]:
    """Drop the graph from output names wherever one name means one value."""
    values: dict[str, set[str]] = {}
    for name, value in outputs.items():
        values.setdefault(_bare(name), set()).add(value)
    short = {_bare(name) if len(values[_bare(name)]) == 1 else name: value for name, value in outputs.items()}
    return dict(sorted(short.items()))


def _bare(name: str) -> str:
    return name.rsplit(_SEPARATOR, 1)[-1]


def _join(drafts: Sequence[Draft]) -> Draft:
    """Put drafts side by side; with more than one graph, every name is led by its graph's."""
    graphs = sorted({draft.graph for draft in drafts})
    inputs: dict[str, InputType] = {}
    for draft in drafts:
        for name, kind in draft.inputs.items():
            if inputs.setdefault(name, kind) != kind:
                raise GraphError(
                    f"another graph of {', '.join(graphs)} declares it differently",
                    graph=draft.file,
                    field=f"inputs.{name}",
                    expected=str(inputs[name]),
                    given=str(kind),
                )
    vertices: dict[str, Vertex] = {}
    outputs: dict[str, str] = {}
    types = dict(drafts[0].types)
    for draft in drafts:

        def rename(value: str, draft: Draft = draft) -> str:
            return value if value in inputs or len(graphs) == 1 else f"{draft.graph}{_SEPARATOR}{value}"

        for vertex in draft.vertices.values():
            reads = tuple(map(rename, vertex.reads))
            moved = replace(vertex, name=rename(vertex.name), reads=reads, when=vertex.when.rename(rename))
            if vertices.setdefault(moved.name, moved) != moved:
                raise GraphError("two graphs of one name differ here", graph=draft.file, node=vertex.name)
        outputs.update({rename(name): rename(value) for name, value in draft.outputs.items()})
        types.update({rename(value): kind for value, kind in draft.types.items()})
    ordered = {name: inputs[name] for name in sorted(inputs)}
    name = "+".join(graphs)
    return Draft(name, ordered, {}, dict(sorted(outputs.items())), types).with_vertices(vertices.values())
