"""Runs the passes in their order, with the verifier between them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from inference.compile.bucket import bucket
from inference.compile.draft import Draft
from inference.compile.fuse import fuse
from inference.compile.merge import merge
from inference.compile.order import lower, order
from inference.compile.place import place
from inference.compile.predicates import push_predicates
from inference.compile.prune import prune
from inference.compile.resolve import resolve
from inference.compile.types import labels_of
from inference.compile.verify import verify, verify_plan
from inference.graph import Graph
from inference.plan import Plan
from inference.repository import ModelRepository

Wanted = Collection[str] | None
"""Output names; None: all that the graph has."""

Backends = Sequence[str] | Mapping[str, str]
"""Backend names in order of preference; or model to backend name, with `*` for all other models."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What one pass made: after `resolve` a draft a graph, after `prune` one a set of wanted outputs, then one."""

    name: str
    drafts: tuple[Draft, ...]


@dataclass(frozen=True, slots=True)
class PlanSet:
    """The plans of several policies.

    Attributes:
        plans: Each policy's own plan: only the steps it needs, under its own conditions. Its rows run on it.
        shared: All of them at once, every equal node once: what has to be loaded and warmed, and what a row costs
            that wants everything.
    """

    plans: Mapping[str, Plan]
    shared: Plan


def compile_graph(
    graph: Graph,
    wanted: Wanted,
    repository: ModelRepository,
    *,
    backends: Backends,
    functions: Collection[str] | None = None,
) -> Plan:
    """Compile one graph for one set of wanted outputs.

    Args:
        graph: As read by `read_graph`.
        wanted: Output names that a policy asks for; None for all.
        repository: What the models take and give.
        backends: Where models may run.
        functions: Names registered for `python` nodes; None where they are not known yet.

    Returns:
        The plan. Equal structures give equal plans, in whatever order things were declared.

    Raises:
        GraphError: Naming node, input, expected and given.
    """
    return _finish(_run([(graph, wanted)], repository, backends, functions))


def compile_set(
    wanted: Mapping[str, tuple[Graph, Wanted]],
    repository: ModelRepository,
    *,
    backends: Backends,
    functions: Collection[str] | None = None,
) -> PlanSet:
    """Compile the graphs and wanted outputs of several policies.

    Args:
        wanted: Policy name to its graph and outputs; at least one.
        repository: As for `compile_graph`.
        backends: As for `compile_graph`.
        functions: As for `compile_graph`.

    Raises:
        GraphError: If one of them cannot be compiled, or two graphs declare one input differently.
    """
    # Policies that want the same of the same graph share one plan.
    pairs = {name: (id(graph), _names(graph, outputs)) for name, (graph, outputs) in sorted(wanted.items())}
    graphs = {id(graph): graph for graph, _ in wanted.values()}
    plans = {
        pair: compile_graph(graphs[pair[0]], pair[1], repository, backends=backends, functions=functions)
        for pair in dict.fromkeys(pairs.values())
    }
    shared = _finish(_run([(graphs[graph], names) for graph, names in plans], repository, backends, functions))
    return PlanSet({name: plans[pair] for name, pair in pairs.items()}, shared)


def offered_labels(graph: Graph, repository: ModelRepository) -> Mapping[str, frozenset[str] | None]:
    """Return the outputs that a policy may want, each with its labels; None where any may come, or it has none.

    Raises:
        GraphError: As `compile_graph`.
    """
    draft = resolve(graph, repository)
    return {name: labels_of(draft.types[value]) for name, value in draft.outputs.items()}


def trace(
    pairs: Sequence[tuple[Graph, Wanted]],
    repository: ModelRepository,
    *,
    backends: Backends,
    functions: Collection[str] | None = None,
) -> tuple[Stage, ...]:
    """Compile, and return what every pass made; the last one is the running order.

    Raises:
        GraphError: As `compile_graph`.
    """
    return tuple(_run(pairs, repository, backends, functions))


def _run(
    pairs: Sequence[tuple[Graph, Wanted]],
    repository: ModelRepository,
    backends: Backends,
    functions: Collection[str] | None,
) -> Iterator[Stage]:
    def checked(name: str, *drafts: Draft) -> Stage:
        for draft in drafts:
            verify(draft, name)
        return Stage(name, drafts)

    graphs = {id(graph): graph for graph, _ in pairs}
    drafts = {key: resolve(graph, repository, functions) for key, graph in graphs.items()}
    yield checked("resolve", *drafts.values())
    pruned = checked("prune", *(prune(drafts[id(graph)], _names(graph, wanted)) for graph, wanted in pairs))
    yield pruned
    draft = merge(pruned.drafts)
    yield checked("merge", draft)
    passes: Mapping[str, Callable[[Draft], Draft]] = {
        "predicates": push_predicates,
        "fuse": fuse,
        "bucket": lambda draft: bucket(draft, repository),
        "place": lambda draft: place(draft, repository, backends),
        "order": order,
    }
    for name, run in passes.items():
        draft = run(draft)
        yield checked(name, draft)


def _names(graph: Graph, wanted: Wanted) -> tuple[str, ...]:
    return tuple(sorted(graph.outputs if wanted is None else set(wanted)))


def _finish(stages: Iterator[Stage]) -> Plan:
    *_, last = stages
    plan = lower(last.drafts[0])
    verify_plan(plan)
    return plan
