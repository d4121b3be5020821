"""How the encoder's matrix products are written: floating point as they are, or int8 with static activation scales.

`Static8` quantises weights per output channel and activations with one scale per site that never changes, so a row's
answer does not depend on its batch neighbours. Channels are smoothed first: an activation channel is divided, its
weights are multiplied, by `max|a|^alpha / max|w|^(1-alpha)`. The feed-forward down-projection has outliers that no
static scale survives: there the scale is per token.
Source: SmoothQuant (Xiao et al., 2023); alphas measured per site on this encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inference.export.graph import CONTRIB, GraphBuilder
from inference.export.packing import pack, unpack
from inference.export.weights import ExportError, FloatArray

SMOOTHING = {"qkv": 0.9, "out": 0.7, "up": 0.7}
"""Smoothing exponent per site; 0.5 everywhere, the usual choice, costs five times the error on this encoder."""

GELU_ZERO_POINT = 32
"""Per-token uint8 zero point after GELU: its minimum -0.17 over the floored row maximum 1.2 is above -32/223."""
GELU_ROW_FLOOR = 1.2


class Precision(Protocol):
    """One way to write the four matrix products of a transformer layer."""

    @property
    def dtype(self) -> type[np.generic]:
        """Of everything but the products."""

    @property
    def is_packed(self) -> bool:
        """Whether token states are packed, `[tokens of all rows, dims]`, or in rows, `[rows, tokens, dims]`."""

    def attention(
        self, graph: GraphBuilder, x: str, lengths: str, site: str, weight: FloatArray, bias: FloatArray, num_heads: int
    ) -> str:
        """Write query, key and value projections and the attention itself."""

    def project(self, graph: GraphBuilder, x: str, site: str, weight: FloatArray, bias: FloatArray | None) -> str:
        """Write `x @ weight + bias`, for attention output (`out`) and feed-forward up (`up`)."""

    def project_down(self, graph: GraphBuilder, x: str, site: str, weight: FloatArray, bias: FloatArray) -> str:
        """Write the feed-forward down-projection, whose input is a GELU."""


@dataclass(frozen=True, slots=True)
class Float:
    """Products in floating point.

    Attributes:
        dtype: `np.float32`, or `np.float16` for the CUDA provider.
    """

    dtype: type[np.generic] = np.float32
    is_packed = False

    def attention(
        self, graph: GraphBuilder, x: str, lengths: str, site: str, weight: FloatArray, bias: FloatArray, num_heads: int
    ) -> str:
        """Write a fused `Attention`."""
        inputs = [x, self._constant(graph, f"{site}.weight", weight), self._constant(graph, f"{site}.bias", bias)]
        return graph.node("Attention", [*inputs, lengths], site, domain=CONTRIB, num_heads=num_heads)

    def project(self, graph: GraphBuilder, x: str, site: str, weight: FloatArray, bias: FloatArray | None) -> str:
        """Write `MatMul` and `Add`."""
        product = graph.node("MatMul", [x, self._constant(graph, f"{site}.weight", weight)], f"{site}.product")
        if bias is None:
            return product
        return graph.node("Add", [product, self._constant(graph, f"{site}.bias", bias)], site)

    def project_down(self, graph: GraphBuilder, x: str, site: str, weight: FloatArray, bias: FloatArray) -> str:
        """Write `MatMul` and `Add`."""
        return self.project(graph, x, site, weight, bias)

    def _constant(self, graph: GraphBuilder, name: str, value: FloatArray) -> str:
        return graph.constant(name, value.astype(self.dtype))


@dataclass(frozen=True, slots=True)
class Static8:
    """Products in int8.

    Attributes:
        ranges: Site to `[2, channels] float32`, the least and greatest activation of each channel (`scales` module).
        dtype: Everything but the products stays fp32.
    """

    ranges: Mapping[str, FloatArray]
    dtype: type[np.generic] = np.float32
    is_packed = True

    def attention(
        self, graph: GraphBuilder, x: str, lengths: str, site: str, weight: FloatArray, bias: FloatArray, num_heads: int
    ) -> str:
        """Write a `QAttention`, which takes static scales although no quantiser of onnxruntime writes it so."""
        (value, product), scales, zeros = self._quantise(graph, x, site, weight)
        value = unpack(graph, value, f"{site}.unpacked")  # a quarter of the bytes of what it was made of
        inputs = [value, product, graph.constant(f"{site}.bias", bias), *scales, lengths, *zeros]
        attended = graph.node("QAttention", inputs, f"{site}.attended", domain=CONTRIB, num_heads=num_heads)
        return pack(graph, attended, site, len(weight))

    def project(self, graph: GraphBuilder, x: str, site: str, weight: FloatArray, bias: FloatArray | None) -> str:
        """Write a `MatMulIntegerToFloat` with a static scale."""
        values, scales, zeros = self._quantise(graph, x, site, weight)
        extra = [] if bias is None else [graph.constant(f"{site}.bias", bias)]
        return graph.node("MatMulIntegerToFloat", [*values, *scales, *zeros, *extra], site, domain=CONTRIB)

    def project_down(self, graph: GraphBuilder, x: str, site: str, weight: FloatArray, bias: FloatArray) -> str:
        """Write a `MatMulIntegerToFloat` per token: divide by the row maximum, fixed scale, multiply back."""
        quantised, weight_scale = quantise_weight(weight)
        step = 1.0 / (255 - GELU_ZERO_POINT)
        greatest = graph.node("ReduceMax", [x], f"{site}.max", axes=[-1], keepdims=1)
        floor = graph.constant(f"{site}.floor", np.float32(GELU_ROW_FLOOR))
        row = graph.node("Max", [greatest, floor], f"{site}.row")
        # One division a token; dividing each of its numbers takes three times as long as multiplying them.
        scaled = graph.node("Mul", [x, graph.node("Reciprocal", [row], f"{site}.inverse")], f"{site}.scaled")
        scale = graph.constant(f"{site}.scale", np.float32(step))
        zero = graph.constant(f"{site}.zero", np.uint8(GELU_ZERO_POINT))
        values = graph.node("QuantizeLinear", [scaled, scale, zero], f"{site}.quantised")
        inputs = [values, graph.constant(f"{site}.weight", quantised)]
        inputs += [scale, graph.constant(f"{site}.weight_scale", weight_scale)]
        inputs += [zero, graph.constant(f"{site}.weight_zero", np.zeros(len(weight_scale), np.int8))]
        product = graph.node("MatMulIntegerToFloat", inputs, f"{site}.product", domain=CONTRIB)
        restored = graph.node("Mul", [product, row], f"{site}.restored")
        return graph.node("Add", [restored, graph.constant(f"{site}.bias", bias)], site)

    def _quantise(
        self, graph: GraphBuilder, x: str, site: str, weight: FloatArray
    ) -> tuple[list[str], list[str], list[str]]:
        """Smooth and quantise `x` and its weight.

        Returns:
            Names of (values, weight), (scale, weight scale), (zero, weight zero), in the order the operators take them.
        """
        if site not in self.ranges:
            raise ExportError(f"static8 ranges lack site {site!r}")
        smoothing, scale, zero = activation_scale(self.ranges[site], weight, SMOOTHING[site.rsplit(".", 1)[1]])
        quantised, weight_scale = quantise_weight(weight * smoothing[:, None])
        smooth = graph.node("Mul", [x, graph.constant(f"{site}.smoothing", 1 / smoothing)], f"{site}.smooth")
        names = [graph.constant(f"{site}.scale", scale), graph.constant(f"{site}.zero", zero)]
        values = graph.node("QuantizeLinear", [smooth, *names], f"{site}.quantised")
        return (
            [values, graph.constant(f"{site}.weight", quantised)],
            [names[0], graph.constant(f"{site}.weight_scale", weight_scale)],
            [names[1], graph.constant(f"{site}.weight_zero", np.zeros(len(weight_scale), np.int8))],
        )


def quantise_weight(weight: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """Round a weight `[in, out]` to int8 with one symmetric scale per output channel, `[out] float32`."""
    scale = np.maximum(np.abs(weight).max(0), 1e-12).astype(np.float32) / np.float32(127)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def activation_scale(
    channel_range: FloatArray, weight: FloatArray, alpha: float
) -> tuple[FloatArray, np.float32, np.uint8]:
    """Choose smoothing, scale and zero point of a site.

    Args:
        channel_range: `[2, in] float32`, least and greatest value of each channel.
        weight: `[in, out] float32`.
        alpha: How much of the difficulty moves from activations to weights, 0 to 1.

    Returns:
        Smoothing divisor `[in] float32` (geometric mean one), uint8 scale, zero point.
    """
    low, high = channel_range
    amplitude = np.maximum(np.maximum(np.abs(low), np.abs(high)), 1e-5)
    smoothing = amplitude**alpha / np.maximum(np.abs(weight).max(1), 1e-5) ** (1 - alpha)
    smoothing = (smoothing / np.exp(np.log(smoothing).mean())).astype(np.float32)
    least, greatest = min(float((low / smoothing).min()), 0.0), max(float((high / smoothing).max()), 0.0)
    scale = np.float32(max(greatest - least, 1e-8) / 255)
    return smoothing, scale, np.uint8(round(-least / float(scale)))
