"""The product graphs of a folder, and what they offer to policies; errors of the engine become those of the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from inference.compile import offered_labels
from inference.errors import InferenceError
from inference.graph import Graph, load_graphs
from inference.plan import Plan
from inference.repository import ModelRepository
from server.wire.errors import ConfigError

Offers = Mapping[str, Mapping[str, frozenset[str] | None]]
"""Graph name → output name → labels that the output can have; None where that is not known (tenants' own labels)."""

MOMENTS = "moments"
"""Output with what was found by the tenant's examples."""
ACTIONS = "actions"
"""Output with what the agent does or should do: the model's labels, and the tenant's own."""
CARRY = "carry"
"""Output with what a turn hands on to the next one. It is for the orchestrator alone: no policy may ask for it."""


def read_graphs(folder: Path) -> dict[str, Graph]:
    """Read every `*.yaml` of a folder, by graph name.

    Raises:
        ConfigError: A file is wrong, with the path of the bad value; or there is none.
    """
    try:
        graphs = load_graphs(folder)
    except InferenceError as error:
        raise config_error(error) from error
    if not graphs:
        raise ConfigError("holds no graph (*.yaml)", field="paths.graphs")
    return dict(graphs)


def offers(graphs: Mapping[str, Graph], repository: ModelRepository) -> Offers:
    """What policies may ask of each graph: its outputs, and the labels their models know.

    Raises:
        ConfigError: A graph reads a model that cannot be served.
    """
    try:
        return {
            name: {output: labels for output, labels in offered_labels(graph, repository).items() if output != CARRY}
            for name, graph in graphs.items()
        }
    except InferenceError as error:
        raise config_error(error) from error


def carry_input(graph: Graph) -> str:
    """Name the input that takes what the turn before handed on; empty where turns of the graph hand nothing on."""
    return next((name for name, kind in graph.inputs.items() if kind == CARRY and CARRY in graph.outputs), "")


def run_outputs(graph: Graph, wanted: Sequence[str]) -> list[str]:
    """Return what calls run for a policy: the outputs that it wants, and what their turns hand on."""
    return [*wanted, CARRY] if carry_input(graph) else list(wanted)


def are_ready_together(plan: Plan, outputs: Sequence[str]) -> bool:
    """Whether the outputs come of one fused group of heads, which the engine hands over as one."""
    slots = {plan.outputs.get(name) for name in outputs}
    groups = {step.group for step in plan.steps if not slots.isdisjoint(step.outputs)}
    return None not in slots and len(groups) == 1 and 0 not in groups


def config_error(error: InferenceError) -> ConfigError:
    """An error of the engine's declarations as one that refuses the start; its message names the place already."""
    return ConfigError(error.message)
