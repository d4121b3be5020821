"""The written graph against numpy, in every precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from inference.export.heads import Heads, fused_model, load_heads, save_heads
from inference.export.precision import SMOOTHING, Float, Precision, Static8, activation_scale, quantise_weight
from inference.export.scales import load_ranges, measure_ranges, save_ranges
from inference.export.weights import Encoder, ExportError, FloatArray, load_encoder, save_encoder
from tests.inference.export.tiny_bert import DIMS, NUM_LAYERS, WORDS, reference_states, tiny_encoder, tiny_heads

ROWS = [[1, 7, 9, 2], [3], [4, 4, 8, 11, 30, 2, 5], [49, 0, 12]]


def session_of(encoder: Encoder, heads: Heads, precision: Precision) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    model = fused_model(encoder, heads, precision).SerializeToString()
    return ort.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
    )


def run(session: ort.InferenceSession, rows: list[list[int]], width: int = 0) -> dict[str, FloatArray]:
    width = max(width, *(len(row) for row in rows))
    ids, mask = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), np.int32)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input_ids": ids, "attention_mask": mask}), strict=True))


def expected(encoder: Encoder, heads: Heads, ids: list[int]) -> dict[str, FloatArray]:
    states = reference_states(encoder, ids)
    features = states[-1].mean(0)
    features = features / np.linalg.norm(features)
    embedding = features if heads.projection is None else heads.projection @ features
    outputs = {name: head.weight @ features + head.bias for name, head in heads.linear.items()}
    for name, attention in heads.attention.items():
        looks, tells = (
            np.sum(
                [states[layer - 1] @ weight.T for layer, weight in zip(heads.attention_layers, part, strict=True)], 0
            )
            for part in (attention.query, attention.value)
        )
        shares = np.exp(looks) / np.exp(looks).sum(0)
        outputs[name] = outputs[name] + (shares * tells).sum(0)
    for name, experts in heads.experts.items():
        means = [states[layer - 1].mean(0) for layer in heads.experts_layers]
        said = experts.weight @ np.concatenate([mean / np.linalg.norm(mean) for mean in means]) + experts.bias
        first, second, gate = np.split(said, [experts.num_labels, 2 * experts.num_labels])
        share = 1 / (1 + np.exp(-gate))
        outputs[name] = outputs[name] + share * first + (1 - share) * second
    score = heads.open_set["intent_scope"]
    distances = np.square(features @ score.whitening - score.centres).sum(1)
    views = [np.log(np.exp(outputs["intent_logits"]).sum()), -distances.min(), features @ score.detector]
    mixed = np.dot(score.mix[:3], views) + score.mix[3]
    carry = np.concatenate([head.weight @ features + head.bias for head in heads.carry.values()])
    outputs |= {"intent_scope": np.array([mixed]), "carry": carry}
    return {"embedding": embedding / np.linalg.norm(embedding), **outputs}


@pytest.mark.parametrize("projected", [True, False])
def test_fp32_equals_the_definition_with_and_without_padding(projected: bool) -> None:
    encoder, heads = tiny_encoder(), tiny_heads(projected=projected)
    outputs = run(session_of(encoder, heads, Float()), ROWS)
    for place, row in enumerate(ROWS):
        for name, value in expected(encoder, heads, row).items():
            np.testing.assert_allclose(outputs[name][place], value, atol=2e-4, err_msg=name)


def test_heads_without_attention_are_linear_and_one_alone_may_have_it() -> None:
    encoder, heads = tiny_encoder(), tiny_heads()
    plain = replace(heads, attention={}, attention_layers=(), experts={})
    one = replace(heads, attention={"question_logits": heads.attention["question_logits"]})
    for some in (plain, one):
        outputs = run(session_of(encoder, some, Float()), ROWS)
        for place, row in enumerate(ROWS):
            for name, value in expected(encoder, some, row).items():
                np.testing.assert_allclose(outputs[name][place], value, atol=2e-4, err_msg=name)


def test_outputs_come_in_the_order_of_the_heads() -> None:
    session = session_of(tiny_encoder(), tiny_heads(), Float())
    names = ["embedding", "intent_logits", "question_logits", "intent_scope", "carry"]
    assert [x.name for x in session.get_outputs()] == names
    assert [tiny_heads().carry_first(name) for name in names[1:3]] == [0, 5]
    assert [(x.name, x.type) for x in session.get_inputs()] == [
        ("input_ids", "tensor(int32)"),
        ("attention_mask", "tensor(int32)"),
    ]


def test_fp16_is_near_fp32_and_gives_fp32_outputs() -> None:
    encoder, heads = tiny_encoder(), tiny_heads()
    full, half = (run(session_of(encoder, heads, p), ROWS) for p in (Float(), Float(np.float16)))
    for name, value in full.items():
        assert half[name].dtype == np.float32
        np.testing.assert_allclose(half[name], value, atol=0.1, err_msg=name)


def test_static8_is_near_fp32_and_a_row_does_not_depend_on_its_batch() -> None:
    encoder, heads = tiny_encoder(), tiny_heads()
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, WORDS, rng.integers(1, 12)).astype(np.int32) for _ in range(100)]
    static8 = session_of(encoder, heads, Static8(measure_ranges(encoder, texts)))
    together = run(static8, ROWS, width=12)
    full = run(session_of(encoder, heads, Float()), ROWS)
    cosines = (together["embedding"] * full["embedding"]).sum(1)
    assert cosines.min() > 0.99
    for place, row in enumerate(ROWS):
        alone = run(static8, [row])
        for name, value in alone.items():
            np.testing.assert_allclose(value[0], together[name][place], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_row_of_padding_stays_finite_and_leaves_the_others_as_they_are(is_packed: bool) -> None:
    encoder = tiny_encoder()
    texts = [np.arange(5, dtype=np.int32), np.arange(30, 42, dtype=np.int32)]
    session = session_of(encoder, tiny_heads(), Static8(measure_ranges(encoder, texts)) if is_packed else Float())
    alone = run(session, [[1, 2]])
    for rows, at in (([[1, 2], []], 0), ([[], [], [1, 2]], 2)):
        outputs = run(session, rows)
        assert all(np.isfinite(value).all() for value in outputs.values())
        for name, value in alone.items():
            np.testing.assert_allclose(outputs[name][at], value[0], atol=1e-5, err_msg=name)
    assert all(np.isfinite(value).all() for value in run(session, [[], []], width=3).values())


def test_static8_names_the_site_that_was_never_measured() -> None:
    with pytest.raises(ExportError, match=r"layer0\.qkv"):
        fused_model(tiny_encoder(), tiny_heads(), Static8({}))


def test_a_missing_weight_is_named() -> None:
    encoder = tiny_encoder()
    tensors = {k: v for k, v in encoder.tensors.items() if k != "encoder.layer.1.output.dense.bias"}
    with pytest.raises(ExportError, match=r"layer\.1\.output\.dense\.bias"):
        fused_model(Encoder(tensors, NUM_LAYERS, encoder.num_heads), tiny_heads(), Float())


def test_checkpoint_heads_and_ranges_survive_their_files(tmp_path: Path) -> None:
    encoder, heads = tiny_encoder(), tiny_heads()
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    save_heads(heads, tmp_path / "heads.safetensors")
    ranges = measure_ranges(encoder, [np.array([1, 2, 3], np.int32)])
    save_ranges(ranges, tmp_path / "static8.safetensors")
    read = load_encoder(tmp_path / "encoder.safetensors")
    assert (read.num_layers, read.num_heads, read.epsilon, read.dims) == (NUM_LAYERS, 3, 1e-12, DIMS)
    for name, value in encoder.tensors.items():
        np.testing.assert_allclose(read.tensors[name], value, atol=1e-3)
    again = load_heads(tmp_path / "heads.safetensors")
    assert list(again.linear) == list(again.carry) == list(heads.linear)
    np.testing.assert_allclose(again.carry["intent_logits"].bias, heads.carry["intent_logits"].bias, atol=1e-3)
    assert (list(again.experts), again.experts_layers) == (["intent_logits"], (1, 2))
    np.testing.assert_allclose(again.experts["intent_logits"].bias, heads.experts["intent_logits"].bias, atol=1e-2)
    assert again.attention_layers == heads.attention_layers
    assert list(again.attention) == list(heads.attention)
    np.testing.assert_allclose(
        again.attention["intent_logits"].value, heads.attention["intent_logits"].value, atol=1e-2
    )
    assert again.projection is not None
    assert not again.is_refitted
    save_heads(replace(heads, is_refitted=True), tmp_path / "heads.safetensors")
    assert load_heads(tmp_path / "heads.safetensors").is_refitted
    np.testing.assert_array_equal(again.open_set["intent_scope"].centres, heads.open_set["intent_scope"].centres)
    for site, value in load_ranges(tmp_path / "static8.safetensors").items():
        np.testing.assert_array_equal(value, ranges[site])


@pytest.mark.parametrize("load", [load_encoder, load_heads, load_ranges])
def test_a_missing_file_is_named(load: object, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"absent\.safetensors"):
        load(tmp_path / "absent.safetensors")  # type: ignore[operator]


@pytest.mark.parametrize("load", [load_encoder, load_heads, load_ranges])
def test_a_damaged_file_is_named(load: object, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"not a header")
    with pytest.raises(ExportError, match=r"cut\.safetensors: damaged"):
        load(tmp_path / "cut.safetensors")  # type: ignore[operator]


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    """An index knows the encoder of its vectors by the digest of this file."""
    encoders, heads = set(), set()
    for _ in range(8):
        save_encoder(tiny_encoder(), tmp_path / "encoder.safetensors")
        save_heads(tiny_heads(), tmp_path / "heads.safetensors")
        encoders.add((tmp_path / "encoder.safetensors").read_bytes())
        heads.add((tmp_path / "heads.safetensors").read_bytes())
    assert len(encoders) == len(heads) == 1
    # Written over what was read: a version that only has other heads keeps its indexes.
    save_encoder(load_encoder(tmp_path / "encoder.safetensors"), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() in encoders


def test_weights_are_rounded_per_output_channel() -> None:
    weight = np.array([[1.0, 100.0], [-0.5, 50.0]], np.float32)
    values, scale = quantise_weight(weight)
    np.testing.assert_array_equal(values, [[127, 127], [-64, 64]])
    np.testing.assert_allclose(values * scale, weight, atol=0.5 * scale.max())


def test_activation_scale_covers_the_range_and_zero_is_exact() -> None:
    channel_range = np.array([[-1.0, 0.5, -3.0], [2.0, 4.0, -1.0]], np.float32)
    smoothing, scale, zero = activation_scale(channel_range, np.ones((3, 2), np.float32), SMOOTHING["qkv"])
    assert np.exp(np.log(smoothing).mean()) == pytest.approx(1, abs=1e-5)
    lowest = (0.0 - float(zero)) * float(scale)
    assert lowest <= (channel_range[0] / smoothing).min() + float(scale)
    assert lowest + 255 * float(scale) >= (channel_range[1] / smoothing).max() - float(scale)
