"""Pass 2, prune: what no active policy asks for is not run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from inference.compile.draft import Draft
from inference.errors import GraphError


def prune(draft: Draft, wanted: Collection[str]) -> Draft:
    """Keep the wanted outputs and what they need, by wire or by condition.

    Raises:
        GraphError: If an output is wanted that the graph does not have.
    """
    for name in sorted(wanted):
        if name not in draft.outputs:
            raise GraphError(
                "unknown output wanted",
                graph=draft.file,
                field="outputs",
                expected=", ".join(draft.outputs),
                given=name,
            )
    return sweep(replace(draft, outputs={name: value for name, value in draft.outputs.items() if name in wanted}))


def sweep(draft: Draft) -> Draft:
    """Drop what no output needs.

    Later passes call it too: a condition that they simplify may have been the only reader of a node.
    """
    writers, dependencies = draft.writers(), draft.dependencies()
    kept: set[str] = set()
    frontier = [writers[value] for value in draft.outputs.values()]
    while frontier:
        name = frontier.pop()
        if name not in kept:
            kept.add(name)
            frontier.extend(dependencies[name])
    return draft.with_vertices(draft.vertices[name] for name in kept)
