"""Two readings of a sentence, and which of them it is for: two kinds of text may say the same thing in other words.

mean states of some layers, each of length one, side by side ─▶ one product ─┬─▶ first ──┐
                                                                            ├─▶ second ─┼─▶ added to the linear head
                                                                            └─▶ gate ───┘

Source: mixtures of experts (Jacobs et al., 1991), the gate learned from where the training rows come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.export.encoder import MASK_FLOAT, layer_states
from inference.export.graph import GraphBuilder
from inference.export.pooling import add_unit_length
from inference.export.weights import FloatArray


@dataclass(frozen=True, slots=True)
class Experts:
    """What is added to the logits of one head: `gate x first + (1 - gate) x second`.

    Attributes:
        weight: `[2 x labels + 1, layers x dims] float32`: first, second, and the gate's logit.
        bias: `[2 x labels + 1] float32`, in the same order.
    """

    weight: FloatArray
    bias: FloatArray

    @property
    def num_labels(self) -> int:
        """Labels of the head."""
        return len(self.bias) // 2


def add_experts(
    graph: GraphBuilder, experts: Experts, layers: Sequence[int], head: str, dtype: type[np.generic]
) -> str:
    """Write the experts of a head.

    Args:
        graph: With the encoder in it.
        experts: Over these layers.
        layers: Counted from 1.
        head: Output tensor that they belong to; nodes are named after it.
        dtype: Of the encoder's states.

    Returns:
        Name of what is to be added, `[rows, labels] float32`.
    """
    name, size = f"{head}.experts", experts.num_labels
    ends = [graph.constant(f"{name}.end{n}", np.array([n], np.int64)) for n in (0, size, 2 * size, 2 * size + 1)]
    axis = graph.constant(f"{name}.axis", np.array([1], np.int64))
    last = graph.constant(f"{name}.last", np.array([2], np.int64))
    mask = graph.node("Unsqueeze", [MASK_FLOAT, last], f"{name}.mask")
    means = []
    for layer in layers:
        kept = graph.node("Mul", [layer_states(graph, layer, dtype), mask], f"{name}.kept{layer}")
        total = graph.node("ReduceSum", [kept, axis], f"{name}.total{layer}", keepdims=0)
        means.append(add_unit_length(graph, total, f"{name}.mean{layer}"))
    features = means[0] if len(means) == 1 else graph.node("Concat", means, f"{name}.features", axis=1)
    weights = [graph.constant(f"{name}.weight", experts.weight), graph.constant(f"{name}.bias", experts.bias)]
    said = graph.node("Gemm", [features, *weights], f"{name}.said", transB=1)
    first, second, gate = (
        graph.node("Slice", [said, ends[i], ends[i + 1], axis], f"{name}.{part}")
        for i, part in enumerate(("first", "second", "gate_logit"))
    )
    share = graph.node("Sigmoid", [gate], f"{name}.gate")
    gap = graph.node("Sub", [first, second], f"{name}.gap")
    return graph.node("Add", [second, graph.node("Mul", [share, gap], f"{name}.moved")], name)
