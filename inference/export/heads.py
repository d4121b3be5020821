"""After the encoder: pooled vectors, every head's logits and the open-set score, in fp32 whatever the encoder's.

The features are the L2-normalised mean of the hidden states. The embedding, which serves retrieval and prototypes, is
their projection back to where the base model would place the text; an encoder that never moved needs none. Heads are
linear over the features; some read the tokens as well (`attention`), or layers in the middle (`experts`). The open-set
score mixes three views of "is this any of the known intents": the energy of the intent logits (Liu et al., 2020), the
Mahalanobis distance to the nearest intent centre (Lee et al., 2018), and a head trained against utterances known to be
outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from inference.export.attention import Attention, add_attentions
from inference.export.encoder import ATTENTION_MASK, INPUT_IDS, MASK_FLOAT, add_encoder
from inference.export.experts import Experts, add_experts
from inference.export.graph import GraphBuilder, tensor_info
from inference.export.pooling import add_unit_length
from inference.export.precision import Precision
from inference.export.retrieval import RETRIEVAL, RetrievalHead, add_retrieval
from inference.export.weights import Encoder, ExportError, FloatArray, read_tensors, write_tensors

EMBEDDING = "embedding"
CARRY = "carry"
"""Output with what a turn hands on to the next one's logits."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A head: `logits = features @ weight.T + bias`.

    Attributes:
        weight: `[labels, dims] float32`.
        bias: `[labels] float32`.
    """

    weight: FloatArray
    bias: FloatArray


@dataclass(frozen=True, slots=True)
class OpenSet:
    """The in-scope logit of a head.

    Attributes:
        head: Head whose labels are the known ones, such as `intent_logits`.
        whitening: `[dims, rank] float32`, projects the features so that known labels have unit covariance.
        centres: `[labels, rank] float32`, label means after whitening.
        detector: `[dims] float32`, the head trained against utterances outside.
        mix: `[4] float32`, weights of energy, negative distance and detector, and a constant.
    """

    head: str
    whitening: FloatArray
    centres: FloatArray
    detector: FloatArray
    mix: FloatArray


@dataclass(frozen=True, slots=True)
class Heads:
    """All heads of a version.

    Attributes:
        linear: Output tensor to head, in output order.
        open_set: Output tensor to open-set score.
        projection: `[dims, dims] float32`, embedding = projection @ features before its length is made one; None:
            the embedding is the features.
        carry: Output tensor to what a turn adds to that tensor of the *next* turn, in the order of the columns of
            `CARRY`; empty: every turn stands alone.
        attention: Output tensor to what is added to its logits from the tokens; empty: features alone decide.
        attention_layers: Layers whose states those read, counted from 1.
        experts: Output tensor to what is added to its logits from layers in the middle.
        experts_layers: Layers whose means those read, counted from 1.
        is_refitted: Weights have learned from the validate rows as well, which therefore tell nothing about them.
    """

    linear: Mapping[str, Linear]
    open_set: Mapping[str, OpenSet]
    projection: FloatArray | None = None
    carry: Mapping[str, Linear] = field(default_factory=dict)
    is_refitted: bool = False
    attention: Mapping[str, Attention] = field(default_factory=dict)
    attention_layers: tuple[int, ...] = ()
    experts: Mapping[str, Experts] = field(default_factory=dict)
    experts_layers: tuple[int, ...] = ()

    def carry_first(self, tensor: str) -> int:
        """Return the first column of `CARRY` that belongs to a tensor."""
        names = list(self.carry)
        return sum(len(self.carry[name].bias) for name in names[: names.index(tensor)])


def save_heads(heads: Heads, path: Path) -> None:
    """Write the heads in fp16; the open-set statistics, which are squared, in fp32."""
    tensors: dict[str, np.ndarray] = {}
    for name, head in heads.linear.items():
        parts = {"weight": head.weight, "bias": head.bias}
        tensors |= {f"linear.{name}.{part}": array.astype(np.float16) for part, array in parts.items()}
    for name, score in heads.open_set.items():
        parts = {"whitening": score.whitening, "centres": score.centres, "detector": score.detector, "mix": score.mix}
        tensors |= {f"open_set.{name}.{part}": array.astype(np.float32) for part, array in parts.items()}
    for name, head in heads.carry.items():
        parts = {"weight": head.weight, "bias": head.bias}
        tensors |= {f"carry.{name}.{part}": array.astype(np.float16) for part, array in parts.items()}
    for name, attention in heads.attention.items():
        parts = {"query": attention.query, "value": attention.value}
        tensors |= {f"attention.{name}.{part}": array.astype(np.float16) for part, array in parts.items()}
    for name, experts in heads.experts.items():
        parts = {"weight": experts.weight, "bias": experts.bias}
        tensors |= {f"experts.{name}.{part}": array.astype(np.float16) for part, array in parts.items()}
    if heads.projection is not None:
        tensors["projection"] = heads.projection.astype(np.float16)
    metadata = {f"head.{name}": score.head for name, score in heads.open_set.items()}
    metadata["order"] = ",".join(heads.linear)
    metadata["carry"] = ",".join(heads.carry)
    metadata["attention"] = ",".join(heads.attention)
    metadata["attention_layers"] = ",".join(map(str, heads.attention_layers))
    metadata["experts"] = ",".join(heads.experts)
    metadata["experts_layers"] = ",".join(map(str, heads.experts_layers))
    metadata["refitted"] = "yes" if heads.is_refitted else "no"
    write_tensors(tensors, path, metadata)


def load_heads(path: Path) -> Heads:
    """Read what `save_heads` wrote, as fp32.

    Raises:
        ExportError: If the file is missing, damaged or incomplete.
    """
    tensors, metadata = read_tensors(path)
    try:
        linear, carry = (
            {
                name: Linear(weight=tensors[f"{kind}.{name}.weight"], bias=tensors[f"{kind}.{name}.bias"])
                for name in names.split(",")
                if name
            }
            for kind, names in (("linear", metadata["order"]), ("carry", metadata.get("carry", "")))
        )
        attention = {
            name: Attention(tensors[f"attention.{name}.query"], tensors[f"attention.{name}.value"])
            for name in metadata.get("attention", "").split(",")
            if name
        }
        experts = {
            name: Experts(tensors[f"experts.{name}.weight"], tensors[f"experts.{name}.bias"])
            for name in metadata.get("experts", "").split(",")
            if name
        }
        open_set = {}
        for key, head in metadata.items():
            if key.startswith("head."):
                name = key.removeprefix("head.")
                parts = {p: tensors[f"open_set.{name}.{p}"] for p in ("whitening", "centres", "detector", "mix")}
                open_set[name] = OpenSet(head=head, **parts)
    except KeyError as error:
        raise ExportError(f"{path}: lacks {error}") from error
    read, averaged = (
        tuple(int(layer) for layer in metadata.get(key, "").split(",") if layer)
        for key in ("attention_layers", "experts_layers")
    )
    is_refitted = metadata.get("refitted") == "yes"
    return Heads(linear, open_set, tensors.get("projection"), carry, is_refitted, attention, read, experts, averaged)


def fused_model(
    encoder: Encoder,
    heads: Heads,
    precision: Precision,
    name: str = "utterance",
    retrieval: RetrievalHead | None = None,
) -> onnx.ModelProto:
    """Write encoder, pooling and heads as one model.

    Inputs are `input_ids` and `attention_mask`, `[rows, tokens] int32`, padded on the right. Outputs are `embedding`
    `[rows, dims]` (of length one), then `[rows, labels]` per head, open-set scores, what is handed on, and `retrieval`,
    which is as `embedding`, where there is such a head; all fp32. A row whose mask is all zero yields finite numbers
    without meaning.
    """
    graph = GraphBuilder()
    hidden = add_encoder(graph, encoder, precision)
    if heads.projection is None:
        features = _add_pooling(graph, hidden, EMBEDDING)
    else:
        features = _add_pooling(graph, hidden, "features")
        projection = graph.constant("projection", heads.projection)
        add_unit_length(graph, graph.node("Gemm", [features, projection], "projected", transB=1), EMBEDDING)
    outputs = [tensor_info(EMBEDDING, np.float32, ["rows", encoder.dims])]
    read = add_attentions(graph, heads.attention_layers, heads.attention, precision.dtype) if heads.attention else {}
    for head_name, head in heads.linear.items():
        more = [read[head_name]] if head_name in read else []
        if head_name in heads.experts:
            experts = heads.experts[head_name]
            more.append(add_experts(graph, experts, heads.experts_layers, head_name, precision.dtype))
        if more:
            alone = _add_linear(graph, features, f"{head_name}.linear", head)
            graph.node("Sum", [alone, *more], head_name)
        else:
            _add_linear(graph, features, head_name, head)
        outputs.append(tensor_info(head_name, np.float32, ["rows", len(head.bias)]))
    for score_name, score in heads.open_set.items():
        _add_open_set(graph, features, score_name, score)
        outputs.append(tensor_info(score_name, np.float32, ["rows", 1]))
    if heads.carry:
        parts = list(heads.carry.values())
        weight, bias = np.concatenate([part.weight for part in parts]), np.concatenate([part.bias for part in parts])
        _add_linear(graph, features, CARRY, Linear(weight, bias))
        outputs.append(tensor_info(CARRY, np.float32, ["rows", len(bias)]))
    if retrieval is not None:
        add_retrieval(graph, retrieval, encoder.num_layers, precision.dtype)
        outputs.append(tensor_info(RETRIEVAL, np.float32, ["rows", encoder.dims]))
    inputs = [tensor_info(i, np.int32, ["rows", "tokens"]) for i in (INPUT_IDS, ATTENTION_MASK)]
    return graph.model(name, inputs, outputs)


def _add_pooling(graph: GraphBuilder, hidden: str, output: str) -> str:
    """Write the mean over a row's tokens; as its length is made one at once, the sum does."""
    axis = graph.constant("pool.axis", np.array([1], np.int64))
    last = graph.constant("pool.last", np.array([2], np.int64))
    mask = graph.node("Unsqueeze", [MASK_FLOAT, last], "pool.mask")
    total = graph.node("ReduceSum", [graph.node("Mul", [hidden, mask], "pool.kept"), axis], "pool.total", keepdims=0)
    return add_unit_length(graph, total, output)


def _add_linear(graph: GraphBuilder, features: str, name: str, head: Linear) -> str:
    weights = [graph.constant(f"{name}.weight", head.weight), graph.constant(f"{name}.bias", head.bias)]
    return graph.node("Gemm", [features, *weights], name, transB=1)


def _add_open_set(graph: GraphBuilder, features: str, name: str, score: OpenSet) -> None:
    def constant(part: str, value: np.ndarray) -> str:
        return graph.constant(f"{name}.{part}", value.astype(np.float32))

    energy = graph.node("ReduceLogSumExp", [score.head], f"{name}.energy", axes=[1], keepdims=1)
    # |z - c|^2 for the nearest centre c, as |z|^2 + min(|c|^2 - 2 z.c): one product instead of a difference per label.
    white = graph.node("MatMul", [features, constant("whitening", score.whitening)], f"{name}.white")
    square = graph.node("Mul", [white, white], f"{name}.square")
    own = graph.node(
        "ReduceSum", [square, graph.constant(f"{name}.axis", np.array([1], np.int64))], f"{name}.own", keepdims=1
    )
    inputs = [white, constant("centres", -2 * score.centres), constant("lengths", np.square(score.centres).sum(1))]
    cross = graph.node("Gemm", inputs, f"{name}.cross", transB=1)
    nearest = graph.node("ReduceMin", [cross], f"{name}.nearest", axes=[1], keepdims=1)
    distance = graph.node("Add", [own, nearest], f"{name}.distance")
    detector = graph.node("MatMul", [features, constant("detector", score.detector[:, None])], f"{name}.detected")
    views = graph.node("Concat", [energy, distance, detector], f"{name}.views", axis=1)
    signs = np.array([1, -1, 1], np.float32)
    mix = [constant("mix", (score.mix[:3] * signs)[:, None]), constant("constant", score.mix[3:])]
    graph.node("Gemm", [views, *mix], name)
