"""From token states to one vector a row: attention with a learned query, and unit length.

states `[rows, tokens, dims]` ─▶ product with the query ─▶ softmax over the row's own tokens ─▶ weighted mean
"""

from __future__ import annotations

import numpy as np

from inference.export.encoder import MASK_FLOAT
from inference.export.graph import GraphBuilder
from inference.export.weights import FloatArray

FORBIDDEN = 1e4
"""Taken from what a padding token scores: its share underflows to zero, a row of padding alone stays finite."""


def add_attention_pooling(graph: GraphBuilder, hidden: str, query: FloatArray, output: str) -> str:
    """Write the mean of a row's token states, weighted by a learned query; a zero query is the plain mean.

    Args:
        graph: With `mask_float` defined, as `add_encoder` does.
        hidden: Name of the states, `[rows, tokens, dims] float32`.
        query: `[dims] float32`.
        output: Name of the result, `[rows, dims] float32`; its nodes are named after it.
    """
    column = graph.constant(f"{output}.query", query.astype(np.float32)[:, None])
    last = graph.constant(f"{output}.last", np.array([2], np.int64))
    mask = graph.node("Unsqueeze", [MASK_FLOAT, last], f"{output}.mask")
    absent = graph.node("Sub", [mask, graph.constant(f"{output}.one", np.float32(1))], f"{output}.absent")
    floor = graph.node("Mul", [absent, graph.constant(f"{output}.far", np.float32(FORBIDDEN))], f"{output}.floor")
    logits = graph.node(
        "Add", [graph.node("MatMul", [hidden, column], f"{output}.products"), floor], f"{output}.logits"
    )
    shares = graph.node("Softmax", [logits], f"{output}.shares", axis=1)
    axis = graph.constant(f"{output}.axis", np.array([1], np.int64))
    return graph.node("ReduceSum", [graph.node("Mul", [hidden, shares], f"{output}.kept"), axis], output, keepdims=0)


def add_unit_length(graph: GraphBuilder, x: str, output: str) -> str:
    """Write the division by the L2 norm, floored so that an empty row, which pads a bucket, stays finite."""
    norm = graph.node("ReduceL2", [x], f"{output}.norm", axes=[-1], keepdims=1)
    floor = graph.constant(f"{output}.floor", np.float32(1e-12))
    return graph.node("Div", [x, graph.node("Max", [norm, floor], f"{output}.divisor")], output)
