"""The vector that knowledge bases are searched by: pooling and a projection of their own, over the last few layers.

states of each layer ─▶ attention pooling ─▶ unit length ─┐
                                          (side by side) ─┴▶ projection ─▶ unit length

Layers below the last have learned less of what the other heads are for, and keep more of what the words say. The head
lies in a file of its own (`retrieval.safetensors`), because an index depends on it and on the encoder and on nothing
else of a version: heads that are fitted anew leave every index as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from inference.export.encoder import layer_states
from inference.export.graph import GraphBuilder
from inference.export.pooling import add_attention_pooling, add_unit_length
from inference.export.weights import ExportError, FloatArray, read_tensors

RETRIEVAL = "retrieval"
"""Name of the output."""


@dataclass(frozen=True, slots=True)
class RetrievalHead:
    """`retrieval = unit(projection @ (unit(pooled), …) + bias)`.

    Attributes:
        query: `[layers, dims] float32`, which tokens count when a row is pooled. Last layer first.
        projection: `[dims, layers x dims] float32`.
        bias: `[dims] float32`.
    """

    query: FloatArray
    projection: FloatArray
    bias: FloatArray

    def layers(self, num_layers: int) -> tuple[int, ...]:
        """Name the layers it reads, counted from 1, in its order, of an encoder of so many."""
        return tuple(range(num_layers, num_layers - len(self.query), -1))


def save_retrieval(head: RetrievalHead, path: Path) -> None:
    """Write the head in fp16."""
    parts = {"query": head.query, "projection": head.projection, "bias": head.bias}
    save_file({name: np.ascontiguousarray(array.astype(np.float16)) for name, array in parts.items()}, path)


def load_retrieval(path: Path) -> RetrievalHead | None:
    """Read what `save_retrieval` wrote, as fp32; None where a version has no such head.

    Raises:
        ExportError: If the file is damaged or incomplete.
    """
    if not path.is_file():
        return None
    tensors, _ = read_tensors(path)
    try:
        return RetrievalHead(tensors["query"], tensors["projection"], tensors["bias"])
    except KeyError as error:
        raise ExportError(f"{path}: lacks {error}") from error


def add_retrieval(graph: GraphBuilder, head: RetrievalHead, num_layers: int, dtype: type[np.generic]) -> str:
    """Write the head behind an encoder of so many layers, whose states are of `dtype`; returns `RETRIEVAL`."""
    pooled = []
    for layer, query in zip(head.layers(num_layers), head.query, strict=True):
        mean = add_attention_pooling(graph, layer_states(graph, layer, dtype), query, f"{RETRIEVAL}.pooled{layer}")
        pooled.append(add_unit_length(graph, mean, f"{RETRIEVAL}.features{layer}"))
    features = pooled[0] if len(pooled) == 1 else graph.node("Concat", pooled, f"{RETRIEVAL}.features", axis=1)
    weights = [
        graph.constant(f"{RETRIEVAL}.projection", head.projection),
        graph.constant(f"{RETRIEVAL}.bias", head.bias),
    ]
    return add_unit_length(
        graph, graph.node("Gemm", [features, *weights], f"{RETRIEVAL}.projected", transB=1), RETRIEVAL
    )
