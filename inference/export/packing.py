"""Padding left out of all products: tokens of a batch side by side, `[tokens, …]`, and in rows only where rows matter.

states `[rows, tokens, …]` ──pack──▶ `[tokens of all rows, …]` ──unpack──▶ `[rows, tokens, …]`

A matrix product does not care which row a token is of, so short rows beside a long one cost what they are. Attention
and pooling do care; there the padding is put back, with any token's numbers, since both look at the mask.
For the CPU: how many tokens there are is known only once the mask is read, which a GPU would have to be waited for.
Source: Effective Transformer (ByteDance, 2020).
"""

from __future__ import annotations

import numpy as np

from inference.export.graph import GraphBuilder

_PRESENT = "packing.present"
_SLOTS = "packing.slots"
_FLAT = "packing.flat"


def add_packing(graph: GraphBuilder, mask: str, first: str, num_tokens: str) -> str:
    """Write where each token goes; `pack` and `unpack` can be written behind it.

    Args:
        graph: To write to.
        mask: `[rows, tokens] int32`.
        first: `[tokens] int32`, one at the first token and zero elsewhere: a row without any keeps that one, so that
            there is always something to compute.
        num_tokens: `[1] int64`, length of a row with its padding.

    Returns:
        Name of the place of each packed token in its row, `[packed] int64`.
    """
    flat = graph.constant(_FLAT, np.array([-1], np.int64))
    shape = graph.node("Shape", [mask], "packing.shape")
    kept = graph.node("Reshape", [graph.node("Max", [mask, first], "packing.kept"), flat], "packing.kept_flat")
    graph.node("Reshape", [graph.node("NonZero", [kept], "packing.nonzero"), flat], _PRESENT)
    zero, one = (graph.constant(f"packing.{name}", np.int32(value)) for name, value in (("zero", 0), ("one", 1)))
    # The first token of the first row is always kept, so no slot lies before 0.
    count = graph.node("CumSum", [kept, zero], "packing.count")
    graph.node("Reshape", [graph.node("Sub", [count, one], "packing.slots_flat"), shape], _SLOTS)
    return graph.node("Mod", [_PRESENT, num_tokens], "packing.place")


def is_packed(graph: GraphBuilder) -> bool:
    """Whether its token states are packed."""
    return graph.has(_SLOTS)


def pack(graph: GraphBuilder, x: str, output: str, *sizes: int) -> str:
    """Write `[rows, tokens, *sizes]` as `[packed, *sizes]`."""
    shape = graph.constant(f"{output}.shape", np.array([-1, *sizes], np.int64))
    return graph.node("Gather", [graph.node("Reshape", [x, shape], f"{output}.flat"), _PRESENT], output)


def unpack(graph: GraphBuilder, x: str, output: str) -> str:
    """Write `[packed, …]` as `[rows, tokens, …]`."""
    return graph.node("Gather", [x, _SLOTS], output)
