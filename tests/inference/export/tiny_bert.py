"""A random BERT small enough to check by hand, and numpy that computes what its graph must."""

from __future__ import annotations

import math

import numpy as np

from inference.export.attention import Attention
from inference.export.experts import Experts
from inference.export.heads import Heads, Linear, OpenSet
from inference.export.weights import Encoder, FloatArray

DIMS, WIDE, NUM_LAYERS, NUM_HEADS, WORDS, POSITIONS = 24, 48, 2, 3, 50, 16


def tiny_encoder(seed: int = 0) -> Encoder:
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> FloatArray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": matrix(WORDS, DIMS),
        "embeddings.position_embeddings.weight": matrix(POSITIONS, DIMS),
        "embeddings.token_type_embeddings.weight": matrix(2, DIMS),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(NUM_LAYERS):
        prefix = f"encoder.layer.{i}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            tensors[f"{prefix}.{name}.weight"] = matrix(DIMS, DIMS)
            tensors[f"{prefix}.{name}.bias"] = matrix(DIMS)
        for name, shape in (("intermediate.dense", (WIDE, DIMS)), ("output.dense", (DIMS, WIDE))):
            tensors[f"{prefix}.{name}.weight"] = matrix(*shape)
            tensors[f"{prefix}.{name}.bias"] = matrix(shape[0])
        norms += [f"{prefix}.attention.output.LayerNorm", f"{prefix}.output.LayerNorm"]
    for name in norms:
        tensors[f"{name}.weight"] = 1 + matrix(DIMS)
        tensors[f"{name}.bias"] = matrix(DIMS)
    return Encoder(tensors, NUM_LAYERS, NUM_HEADS)


def tiny_heads(seed: int = 1, *, projected: bool = True) -> Heads:
    rng = np.random.default_rng(seed)
    linear = {
        "intent_logits": Linear(rng.normal(size=(5, DIMS)).astype(np.float32), rng.normal(size=5).astype(np.float32)),
        "question_logits": Linear(rng.normal(size=(1, DIMS)).astype(np.float32), rng.normal(size=1).astype(np.float32)),
    }
    score = OpenSet(
        head="intent_logits",
        whitening=rng.normal(size=(DIMS, 4)).astype(np.float32),
        centres=rng.normal(size=(5, 4)).astype(np.float32),
        detector=rng.normal(size=DIMS).astype(np.float32),
        mix=np.array([0.7, 0.2, 0.4, -0.1], np.float32),
    )
    projection = rng.normal(size=(DIMS, DIMS)).astype(np.float32) if projected else None
    carry = {
        name: Linear(
            rng.normal(size=head.weight.shape).astype(np.float32), rng.normal(size=len(head.bias)).astype("f4")
        )
        for name, head in linear.items()
    }
    attention = {
        name: Attention(*(rng.normal(size=(2, len(head.bias), DIMS)).astype(np.float32) for _ in range(2)))
        for name, head in linear.items()
    }
    experts = Experts(rng.normal(size=(11, 2 * DIMS)).astype(np.float32), rng.normal(size=11).astype(np.float32))
    return Heads(
        linear,
        {"intent_scope": score},
        projection,
        carry,
        attention=attention,
        attention_layers=(1, 2),
        experts={"intent_logits": experts},
        experts_layers=(1, 2),
    )


def reference_states(encoder: Encoder, ids: list[int]) -> list[FloatArray]:
    """Hidden states behind each layer, `[tokens, dims]`, of one row without padding, as the BERT paper defines them."""
    w = encoder.tensors

    def norm(x: FloatArray, name: str) -> FloatArray:
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt(np.square(centred).mean(-1, keepdims=True) + encoder.epsilon)
        return np.asarray(centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"])

    def dense(x: FloatArray, name: str) -> FloatArray:
        return np.asarray(x @ w[f"{name}.weight"].T + w[f"{name}.bias"])

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    states = []
    size = DIMS // NUM_HEADS
    for i in range(NUM_LAYERS):
        p = f"encoder.layer.{i}"
        q, k, v = (
            dense(x, f"{p}.attention.self.{n}").reshape(len(ids), NUM_HEADS, size) for n in ("query", "key", "value")
        )
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(size)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", shares, v).reshape(len(ids), DIMS)
        x = norm(dense(mixed, f"{p}.attention.output.dense") + x, f"{p}.attention.output.LayerNorm")
        u = dense(x, f"{p}.intermediate.dense")
        u = 0.5 * u * (1 + np.vectorize(math.erf)(u / math.sqrt(2)))
        x = norm(dense(u, f"{p}.output.dense") + x, f"{p}.output.LayerNorm")
        states.append(x)
    return states


def reference_hidden(encoder: Encoder, ids: list[int]) -> FloatArray:
    """Hidden states behind the last layer, `[tokens, dims]`."""
    return reference_states(encoder, ids)[-1]
