"""The vector that knowledge bases are searched by: attention pooling and a projection of their own.

It lies in a file of its own (`retrieval.safetensors`), because an index depends on it and on the encoder and on nothing
else of a version: heads that are fitted anew leave every index as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from inference.export.graph import GraphBuilder
from inference.export.pooling import add_attention_pooling, add_unit_length
from inference.export.weights import ExportError, FloatArray

RETRIEVAL = "retrieval"
"""Name of the output."""


@dataclass(frozen=True, slots=True)
class RetrievalHead:
    """`retrieval = unit(projection @ unit(pooled) + bias)`.

    Attributes:
        query: `[dims] float32`, which tokens count when a row is pooled.
        projection: `[dims, dims] float32`.
        bias: `[dims] float32`.
    """

    query: FloatArray
    projection: FloatArray
    bias: FloatArray


def save_retrieval(head: RetrievalHead, path: Path) -> None:
    """Write the head in fp16."""
    parts = {"query": head.query, "projection": head.projection, "bias": head.bias}
    save_file({name: np.ascontiguousarray(array.astype(np.float16)) for name, array in parts.items()}, path)


def load_retrieval(path: Path) -> RetrievalHead | None:
    """Read what `save_retrieval` wrote, as fp32; None where a version has no such head.

    Raises:
        ExportError: If the file is incomplete.
    """
    if not path.is_file():
        return None
    tensors = {name: array.astype(np.float32) for name, array in load_file(path).items()}
    try:
        return RetrievalHead(tensors["query"], tensors["projection"], tensors["bias"])
    except KeyError as error:
        raise ExportError(f"{path}: lacks {error}") from error


def add_retrieval(graph: GraphBuilder, hidden: str, head: RetrievalHead) -> str:
    """Write the head over token states `[rows, tokens, dims] float32`; returns `RETRIEVAL`."""
    pooled = add_attention_pooling(graph, hidden, head.query, "retrieval.pooled")
    features = add_unit_length(graph, pooled, "retrieval.features")
    weights = [
        graph.constant("retrieval.projection", head.projection),
        graph.constant("retrieval.bias", head.bias),
    ]
    return add_unit_length(graph, graph.node("Gemm", [features, *weights], "retrieval.projected", transB=1), RETRIEVAL)
