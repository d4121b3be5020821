"""What labels find among the tokens: each label reads the states below the last layer with a query of its own.

states of some layers `[rows, tokens, dims]` ─▶ products with queries and values, all heads at once
    ─▶ softmax over the row's own tokens ─▶ weighted sum of values ─▶ added to the linear head's logits

Where several labels are true of one sentence, each stands in a few words of it, which the mean over all tokens blurs.
Source: label-wise attention (Mullenbach et al., 2018); layers below the last know less of the training rows by heart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inference.export.encoder import MASK_FLOAT, layer_states
from inference.export.graph import GraphBuilder
from inference.export.pooling import FORBIDDEN
from inference.export.weights import FloatArray


@dataclass(frozen=True, slots=True)
class Attention:
    """What is added to the logits of one head.

    Attributes:
        query: `[layers, labels, dims] float32`, where each label looks.
        value: `[layers, labels, dims] float32`, what a token tells each label.
    """

    query: FloatArray
    value: FloatArray


def add_attentions(
    graph: GraphBuilder, layers: Sequence[int], attentions: Mapping[str, Attention], dtype: type[np.generic]
) -> dict[str, str]:
    """Write the attention of every head that has one, in as few products as there are layers.

    Args:
        graph: With the encoder in it.
        layers: Whose states are read, counted from 1.
        attentions: Head to attention, at least one; all over these layers.
        dtype: Of the encoder's states.

    Returns:
        Head to the name of what its attention found, `[rows, labels] float32`.
    """
    sizes = [attention.query.shape[1] for attention in attentions.values()]
    total = sum(sizes)
    found = []
    for place, layer in enumerate(layers):
        parts = [a.query[place] for a in attentions.values()] + [a.value[place] for a in attentions.values()]
        weight = graph.constant(f"attention.weight{layer}", np.ascontiguousarray(np.concatenate(parts).T))
        found.append(graph.node("MatMul", [layer_states(graph, layer, dtype), weight], f"attention.product{layer}"))
    products = found[0] if len(found) == 1 else graph.node("Sum", found, "attention.products")

    axis = graph.constant("attention.axis", np.array([1], np.int64))
    last = graph.constant("attention.last", np.array([2], np.int64))
    bounds = [
        graph.constant(f"attention.bound{i}", np.array([n], np.int64)) for i, n in enumerate((0, total, 2 * total))
    ]
    looks, tells = (
        graph.node("Slice", [products, *bounds[i : i + 2], last], f"attention.{name}")
        for i, name in enumerate(("looks", "tells"))
    )
    absent = graph.node("Sub", [MASK_FLOAT, graph.constant("attention.one", np.float32(1))], "attention.absent")
    floor = graph.node("Mul", [absent, graph.constant("attention.far", np.float32(FORBIDDEN))], "attention.floor")
    masked = graph.node("Add", [looks, graph.node("Unsqueeze", [floor, last], "attention.mask")], "attention.masked")
    shares = graph.node("Softmax", [masked], "attention.shares", axis=1)
    kept = graph.node("Mul", [shares, tells], "attention.kept")
    answer = graph.node("ReduceSum", [kept, axis], "attention.answer", keepdims=0)
    if len(sizes) == 1:
        return dict.fromkeys(attentions, answer)
    ends = [graph.constant(f"attention.end{i}", np.array([n], np.int64)) for i, n in enumerate(np.cumsum([0, *sizes]))]
    return {
        head: graph.node("Slice", [answer, ends[number], ends[number + 1], axis], f"attention.{head}")
        for number, head in enumerate(attentions)
    }
