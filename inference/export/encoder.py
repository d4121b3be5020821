"""The transformer as an ONNX graph: token ids to hidden states, in any precision.

Plain `LayerNormalization` instead of onnxruntime's fused `SkipLayerNormalization`, which is five times slower on CPU.
Where the precision is for the CPU, tokens are packed (`packing`) and padding costs no products.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from inference.export.graph import CONTRIB, GraphBuilder
from inference.export.packing import add_packing, is_packed, pack, unpack
from inference.export.precision import Precision
from inference.export.weights import MAX_TOKENS, POSITIONS, TYPES, WORDS, Encoder, ExportError, FloatArray

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
MASK_FLOAT = "mask_float"


def site(layer: int, name: str) -> str:
    """Name of a quantisation site: `qkv`, `out`, `up` or `down` of a layer."""
    return f"layer{layer}.{name}"


def site_inputs(num_layers: int) -> dict[str, str]:
    """Tensor that feeds each statically quantised site, in the names that `add_encoder` gives."""
    names = {"qkv": "hidden", "out": "qkv", "up": "attended"}
    return {site(i, s): f"layer{i}.{tensor}" for i in range(num_layers) for s, tensor in names.items()}


def layer_states(graph: GraphBuilder, layer: int, dtype: type[np.generic]) -> str:
    """Name the hidden states behind a layer, `[rows, tokens, dims] float32`, once the encoder is written.

    Args:
        graph: With the encoder in it.
        layer: Counted from 1.
        dtype: Of the encoder.
    """
    name = f"layer{layer}.hidden"
    if is_packed(graph):
        unpacked = f"{name}_unpacked"
        return unpacked if graph.has(unpacked) else unpack(graph, name, unpacked)
    if dtype is np.float32:
        return name
    cast = f"{name}_float"
    return cast if graph.has(cast) else graph.node("Cast", [name], cast, to=TensorProto.FLOAT)


def add_encoder(graph: GraphBuilder, encoder: Encoder, precision: Precision) -> str:
    """Write the encoder over the inputs `input_ids` and `attention_mask`, both `[rows, tokens] int32`.

    Returns:
        Name of the last hidden states, `[rows, tokens, dims] float32`. `mask_float` is defined on the way.

    Raises:
        ExportError: If a weight is missing.
    """
    try:
        return _write(graph, encoder, precision)
    except KeyError as error:
        raise ExportError(f"checkpoint lacks {error}") from error


def _write(graph: GraphBuilder, encoder: Encoder, precision: Precision) -> str:
    w = encoder.tensors
    axis = graph.constant("token_axis", np.array([1], np.int64))
    graph.node("Cast", [ATTENTION_MASK], MASK_FLOAT, to=TensorProto.FLOAT)
    lengths = graph.node("ReduceSum", [ATTENTION_MASK, axis], "lengths", keepdims=0)

    def norm(x: str, prefix: str, output: str) -> str:
        gain = graph.constant(f"{output}.gain", w[f"{prefix}.weight"].astype(precision.dtype))
        shift = graph.constant(f"{output}.shift", w[f"{prefix}.bias"].astype(precision.dtype))
        return graph.node("LayerNormalization", [x, gain, shift], output, axis=-1, epsilon=encoder.epsilon)

    embedded = _add_embedding(graph, w, precision)
    x = norm(embedded, "embeddings.LayerNorm", "layer0.hidden")

    for i in range(encoder.num_layers):
        prefix = f"encoder.layer.{i}"
        qkv = [f"{prefix}.attention.self.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([_transposed(w[f"{part}.weight"]) for part in qkv], axis=1)
        bias = np.concatenate([w[f"{part}.bias"] for part in qkv])
        a = precision.attention(graph, x, lengths, site(i, "qkv"), weight, bias, encoder.num_heads)
        dense = f"{prefix}.attention.output.dense"
        a = precision.project(graph, a, site(i, "out"), _transposed(w[f"{dense}.weight"]), w[f"{dense}.bias"])
        summed = graph.node("Add", [a, x], f"layer{i}.attention_sum")
        x = norm(summed, f"{prefix}.attention.output.LayerNorm", f"layer{i}.attended")
        dense = f"{prefix}.intermediate.dense"
        u = precision.project(graph, x, site(i, "up"), _transposed(w[f"{dense}.weight"]), None)
        up_bias = graph.constant(f"layer{i}.gelu.bias", w[f"{dense}.bias"].astype(precision.dtype))
        u = graph.node("BiasGelu", [u, up_bias], f"layer{i}.gelu", domain=CONTRIB)
        dense = f"{prefix}.output.dense"
        d = precision.project_down(graph, u, site(i, "down"), _transposed(w[f"{dense}.weight"]), w[f"{dense}.bias"])
        summed = graph.node("Add", [d, x], f"layer{i}.output_sum")
        x = norm(summed, f"{prefix}.output.LayerNorm", f"layer{i + 1}.hidden")
    return layer_states(graph, encoder.num_layers, precision.dtype)


def _add_embedding(graph: GraphBuilder, w: Mapping[str, FloatArray], precision: Precision) -> str:
    """Write the sum of word and position, `[rows, tokens, dims]`, or `[packed, dims]` where tokens are packed."""
    words = graph.constant("words", w[WORDS].astype(precision.dtype))
    # No row has a second segment, so its only type vector is part of every position.
    places = graph.constant("positions", (w[POSITIONS][:MAX_TOKENS] + w[TYPES][0]).astype(precision.dtype))
    start, one, two = (graph.constant(f"embedding.{n}", np.array([n], np.int64)) for n in range(3))
    num_tokens = graph.node("Slice", [graph.node("Shape", [INPUT_IDS], "shape"), one, two], "num_tokens")
    if precision.is_packed:
        firsts = graph.constant("firsts", np.eye(1, MAX_TOKENS, dtype=np.int32)[0])
        first = graph.node("Slice", [firsts, start, num_tokens], "first")
        place = add_packing(graph, ATTENTION_MASK, first, num_tokens)
        ids = pack(graph, INPUT_IDS, "ids")
        at = graph.node("Gather", [places, place], "place")
    else:
        ids = INPUT_IDS
        at = graph.node("Slice", [places, start, num_tokens], "place")
    return graph.node("Add", [graph.node("Gather", [words, ids], "word"), at], "embedded")


def _transposed(weight: FloatArray) -> FloatArray:
    return np.ascontiguousarray(weight.T)
