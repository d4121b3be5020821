"""Measures what static int8 needs of a new encoder: the range of every activation channel at every site.

Runs once, after training; the ranges (27 kB) are committed beside the weights, so building needs no texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from safetensors.numpy import save_file

from inference.export.encoder import ATTENTION_MASK, INPUT_IDS, add_encoder, site_inputs
from inference.export.graph import GraphBuilder, tensor_info
from inference.export.precision import Float
from inference.export.weights import Encoder, FloatArray, read_tensors


def measure_ranges(encoder: Encoder, rows: Iterable[NDArray[np.int32]]) -> dict[str, FloatArray]:
    """Run texts one by one through the fp32 encoder and keep each channel's extremes.

    Args:
        encoder: Weights to be quantised later.
        rows: Token ids, `[tokens] int32` each; some 500 texts of the kind that will be served are enough.

    Returns:
        Site to `[2, channels] float32`, least and greatest.
    """
    graph = GraphBuilder()
    add_encoder(graph, encoder, Float())
    tensors = site_inputs(encoder.num_layers)
    inputs = [tensor_info(i, np.int32, ["rows", "tokens"]) for i in (INPUT_IDS, ATTENTION_MASK)]
    outputs = [tensor_info(t, np.float32, ["rows", "tokens", encoder.dims]) for t in tensors.values()]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = graph.model("ranges", inputs, outputs).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    ranges: dict[str, FloatArray] = {}
    for ids in rows:
        values = session.run(list(tensors.values()), {INPUT_IDS: ids[None], ATTENTION_MASK: np.ones_like(ids)[None]})
        for name, value in zip(tensors, values, strict=True):
            new = np.stack([value[0].min(0), value[0].max(0)])
            old = ranges.get(name, new)
            ranges[name] = np.stack([np.minimum(old[0], new[0]), np.maximum(old[1], new[1])])
    return ranges


def save_ranges(ranges: dict[str, FloatArray], path: Path) -> None:
    """Write ranges as fp32 safetensors."""
    save_file(ranges, path)


def load_ranges(path: Path) -> dict[str, FloatArray]:
    """Read what `save_ranges` wrote.

    Raises:
        ExportError: If the file is missing or damaged.
    """
    ranges, _ = read_tensors(path)
    return ranges
