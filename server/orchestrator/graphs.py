"""The product graphs of a folder, and what they offer to policies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from inference.errors import InferenceError
from inference.graph import Graph, read_graph
from inference.repository import ModelRepository
from server.wire.errors import ConfigError

Offers = Mapping[str, Mapping[str, frozenset[str] | None]]
"""Graph name → output name → labels that the output can have; None where that is not known (tenants' own labels)."""


def read_graphs(folder: Path) -> dict[str, Graph]:
    """Read every `*.yaml` of a folder, by graph name.

    Raises:
        ConfigError: A file is wrong, with the path of the bad value; or there is none.
    """
    try:
        graphs = {graph.name: graph for graph in (read_graph(path) for path in sorted(folder.glob("*.yaml")))}
    except InferenceError as error:
        raise config_error(error) from error
    if not graphs:
        raise ConfigError("holds no graph (*.yaml)", field="paths.graphs")
    return graphs


def offers(graphs: Mapping[str, Graph], repository: ModelRepository) -> Offers:
    """What policies may ask of each graph: its outputs, and the labels their models know.

    Raises:
        ConfigError: A graph reads a model that cannot be served.
    """
    return {
        name: {output: _labels(graph, output, repository) for output in graph.outputs}
        for name, graph in graphs.items()
    }


def _labels(graph: Graph, output: str, repository: ModelRepository) -> frozenset[str] | None:
    node = graph.nodes.get(output)
    if node is None or node.op != "classify" or node.prototypes is not None or not node.inputs:
        return None
    source, _, tensor = node.inputs[0].partition(".")
    model = graph.nodes[source].model if source in graph.nodes else ""
    if not model:
        return None
    try:
        labels = repository.model(model).latest.labels.get(tensor)
    except InferenceError as error:
        raise config_error(error) from error
    return frozenset(labels) if labels else None


def config_error(error: InferenceError) -> ConfigError:
    """An error of the engine's declarations as one that refuses the start; its message names the place already."""
    return ConfigError(error.message)
