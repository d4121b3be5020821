"""Models of an engine: versions pinned, swapped and refused, chained, warmed and padded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.backends.fake import FakeBackend
from inference.engine import Engine, EngineSettings
from inference.errors import InferenceError, ModelError
from inference.graph import parse_graph
from inference.repository import ModelRepository
from inference.request import Outcome
from tests.inference.engine.running import GRAPH, Answers, running, submit
from tests.inference.tiny_models import WORDS, write_encoder


async def test_a_pinned_version_answers_for_its_calls_only(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        plan = engine.compile(GRAPH, ["intent"])
        pinned, free = submit(engine, plan, pins={"utterance": 1}), submit(engine, plan)
        assert await pinned.outcome() is await free.outcome() is Outcome.DONE
        assert pinned.outputs["intent"].version == 1
        assert free.outputs["intent"].version == 2
        assert pinned.values != free.values
        with pytest.raises(InferenceError, match="no version 7"):
            submit(engine, plan, pins={"utterance": 7})


async def test_versions_are_swapped_under_load_without_a_lost_or_misplaced_row(real_repository: Path) -> None:
    config = real_repository / "utterance" / "config.pbtxt"
    config.write_text(
        config.read_text().replace("version_policy { all {} }", "version_policy { specific { versions: 1 } }")
    )
    model = ModelRepository.open(real_repository).model("utterance")
    async with running(real_repository, memo_rows=64) as engine:
        plan = engine.compile(GRAPH, ["intent", "sentiment"])
        texts = [" ".join(WORDS[5 + (i + k) % 30] for k in range(1 + i % 9)) for i in range(40)]
        expected: dict[int, list[Any]] = {}
        rows: list[tuple[int, int, Answers]] = []
        serving = 1
        for swap in range(30):
            if swap:
                new = 3 - serving
                await engine.load_version(model.versions[new])
                engine.serve_version("utterance", new)
                old, serving = serving, new
            rows += [(serving, i, submit(engine, plan, text)) for i, text in enumerate(texts)]
            if swap:
                await engine.retire_version("utterance", old)
            if serving not in expected:
                found = [await engine.run(plan, {"text": text, "speaker": "customer"}) for text in texts]
                expected[serving] = [outputs["intent"].value["label"] for outputs in found]
        for version, i, answers in rows:
            assert await answers.outcome() is Outcome.DONE
            assert {output.version for output in answers.outputs.values()} == {version}
            assert answers.values["intent"]["label"] == expected[version][i]


async def test_a_version_that_answers_cannot_be_retired_and_a_bad_one_changes_nothing(real_repository: Path) -> None:
    model = ModelRepository.open(real_repository).model("utterance")
    async with running(real_repository) as engine:
        plan = engine.compile(GRAPH, ["intent"])
        with pytest.raises(InferenceError, match="let another one serve first"):
            await engine.retire_version("utterance", 2)
        with pytest.raises(ModelError, match="loaded already"):
            await engine.load_version(model.versions[2])
        await engine.retire_version("utterance", 1)
        (model.versions[1].path / "model.onnx").write_bytes(b"half")
        with pytest.raises(ModelError, match="cannot load it"):
            await engine.load_version(model.versions[1])
        with pytest.raises(InferenceError, match="no version 1"):
            engine.serve_version("utterance", 1)
        assert await submit(engine, plan).outcome() is Outcome.DONE


async def test_a_second_model_reads_what_the_first_one_gave(real_repository: Path) -> None:
    folder = real_repository / "tone"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(
        """
name: "tone"
backend: "onnxruntime"
max_batch_size: 8
input { name: "embedding" data_type: TYPE_FP32 dims: [4] }
output { name: "tone_logits" data_type: TYPE_FP32 dims: [2] label_filename: "tone.txt" }
"""
    )
    (folder / "tone.txt").write_text("warm\ncold\n")
    (folder / "1" / "heads.json").write_text('{"tone_logits": {"kind": "distribution"}}')
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.eye(4, 2, dtype=np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["embedding", "weight"], ["tone_logits"])],
        "tone",
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("tone_logits", TensorProto.FLOAT, ["rows", 2])],
        [weight],
    )
    onnx.save(
        helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), folder / "1" / "model.onnx"
    )
    chained = parse_graph(
        """
name: chained
inputs: {text: string}
nodes:
  tokens:    {op: tokenize, model: utterance, inputs: [text]}
  utterance: {op: model, model: utterance, inputs: [tokens]}
  second:    {op: model, model: tone, inputs: [utterance.embedding]}
  sentiment: {op: classify, inputs: [utterance.sentiment_logits]}
  tone:      {op: classify, inputs: [second.tone_logits], when: sentiment.score > 0.0}
outputs: [sentiment, tone]
""",
        "chained.yaml",
    )
    async with running(real_repository) as engine:
        plan = engine.compile(chained, None)
        texts = ["my card is lost", "thank you", "help me"]
        found = await asyncio.gather(*(engine.run(plan, {"text": text}) for text in texts))
        vectors = await engine.embed(texts)
        for outputs, vector in zip(found, vectors, strict=True):
            exponentials = np.exp(vector[:2])
            assert outputs["tone"].value["scores"]["warm"] == pytest.approx(
                exponentials[0] / exponentials.sum(), abs=1e-5
            )
            assert outputs["tone"].model == "tone"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "1" / "model.onnx").write_bytes(b"half"), "cannot load it"),
        (
            lambda f: (f / "config.pbtxt").write_text((f / "config.pbtxt").read_text().replace("[4]", "[5]")),
            "given FP32",
        ),
        (
            lambda f: (f / "config.pbtxt").write_text(
                (f / "config.pbtxt").read_text().replace('"embedding"', '"vector"')
            ),
            "has no output vector",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "is no tokeniser"),
        (lambda f: (f / "config.pbtxt").write_text("nonsense"), "config.pbtxt"),
        (lambda f: (f / "1" / "model.onnx").unlink(), "no weights"),
    ],
)
async def test_a_broken_model_stops_the_start(tmp_path: Path, break_it: Callable[[Path], object], message: str) -> None:
    break_it(write_encoder(tmp_path))
    engine = Engine(ModelRepository.open(tmp_path))
    with pytest.raises(ModelError, match=message):
        await engine.start()
    assert not engine.is_ready
    await engine.stop()


async def test_a_device_that_is_not_there_is_refused(repository: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has CUDA")
    with pytest.raises(ModelError, match="no CUDAExecutionProvider"):
        Engine(ModelRepository.open(repository), EngineSettings(device="cuda"))


async def test_every_reachable_bucket_is_warmed_with_progress_before_ready(repository: Path) -> None:
    backend = FakeBackend(is_exact=False)
    engine = Engine(ModelRepository.open(repository), backends={"fake": backend})
    seen: list[tuple[str, float]] = []
    await engine.start(lambda name, share: seen.append((name, share)))
    await asyncio.sleep(0)
    assert {run[:2] for run in backend.runs} == {(1, 8), (4, 8), (8, 8), (1, 32), (4, 32), (8, 32)}
    assert seen[0] == ("utterance", 0.0)
    assert seen[-1] == ("utterance", 1.0)
    assert engine.is_ready
    await engine.stop()


async def test_shapes_are_padded_up_where_the_backend_wants_it(repository: Path) -> None:
    backend = FakeBackend(is_exact=False)
    async with running(repository, backend=backend) as engine:
        backend.runs.clear()
        await engine.run(engine.compile(GRAPH, ["sentiment"]), {"text": "my card", "speaker": "customer"})
        assert backend.runs == [(1, 8, ("sentiment_logits",))]


async def test_inputs_have_the_type_that_the_model_declares(repository: Path) -> None:
    config = repository / "utterance" / "config.pbtxt"
    token_types = ' { name: "token_type_ids" data_type: TYPE_INT64 dims: [-1] },'
    config.write_text(
        config.read_text().replace("TYPE_INT32", "TYPE_INT64").replace("input [", "input [" + token_types)
    )
    seen: list[dict[str, np.ndarray]] = []
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        backend.script = lambda inputs: seen.append({name: array.copy() for name, array in inputs.items()})
        await engine.run(engine.compile(GRAPH, ["sentiment"]), {"text": "my card", "speaker": "customer"})
    assert {name: array.tolist() for name, array in seen[0].items()} == {
        "token_type_ids": [[0, 0, 0, 0]],
        "input_ids": [[2, 5, 6, 3]],
        "attention_mask": [[1, 1, 1, 1]],
    }
    assert {array.dtype for array in seen[0].values()} == {np.dtype(np.int64)}
