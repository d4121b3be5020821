"""What a request is answered with: values, times, only what was asked for."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from inference.backends.fake import FakeBackend
from inference.prototypes import make_prototypes
from inference.request import Outcome
from tests.inference.engine.running import GRAPH, running, submit


async def test_every_wanted_output_comes_with_model_version_and_times(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        plan = engine.compile(GRAPH, None)
        started_s = time.monotonic()
        answers = submit(engine, plan, is_final=True)
        assert await answers.outcome() is Outcome.DONE
        assert set(answers.outputs) == set(GRAPH.outputs)
        assert answers.values["passages"] == "3 about my card is lost"
        assert answers.values["moments"] == []
        intent = answers.outputs["intent"]
        assert intent.value["label"] in ("transfer", "balance", "order_status")
        assert intent.score == intent.value["score"]
        assert (intent.model, intent.version) == ("utterance", 2)
        assert started_s <= intent.started_s <= intent.ready_s <= time.monotonic()
        assert intent.queue_ms >= 0.0
        assert intent.compute_ms > 0.0
        assert (intent.queue_ms, intent.compute_ms) == (round(intent.queue_ms, 3), round(intent.compute_ms, 3))
        assert engine.stats().rows == 1


async def test_outputs_whose_when_is_false_are_none(repository: Path) -> None:
    async with running(repository, backend=FakeBackend()) as engine:
        answers = submit(engine, engine.compile(GRAPH, None), speaker="agent")
        await answers.outcome()
        assert answers.values["intent"] is None
        assert answers.values["passages"] is None
        assert answers.outputs["intent"].model == ""
        assert answers.values["sentiment"] is not None


async def test_a_plan_computes_only_the_tensors_it_reads(repository: Path) -> None:
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        backend.runs.clear()
        await engine.run(engine.compile(GRAPH, ["sentiment"]), {"text": "card", "speaker": "customer"})
        assert backend.runs == [(1, 3, ("sentiment_logits",))]


async def test_a_row_that_no_output_needs_reaches_no_model(repository: Path) -> None:
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, ["intent"])
        backend.runs.clear()
        answers = submit(engine, plan, speaker="agent")
        assert await answers.outcome() is Outcome.DONE
        assert answers.values == {"intent": None}
        assert not backend.runs
        assert engine.stats().skipped == {"not_wanted": 1}


@pytest.mark.parametrize("text", ["", " ", "\x00", "🙂" * 50, "中文", "my card " * 5_000, "a\u0301\u200d\ufffd"])
async def test_any_text_is_answered(real_repository: Path, text: str) -> None:
    async with running(real_repository) as engine:
        assert await submit(engine, engine.compile(GRAPH, None), text, is_final=True).outcome() is Outcome.DONE


async def test_equal_structures_share_a_plan(repository: Path) -> None:
    async with running(repository, backend=FakeBackend()) as engine:
        assert engine.compile(GRAPH, ["intent", "sentiment"]) is engine.compile(GRAPH, ["sentiment", "intent"])


async def test_embeddings_are_those_of_the_model(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        texts = [f"my card is lost {'please ' * (i % 7)}" for i in range(300)]
        vectors = await engine.embed(texts)
        assert vectors.shape == (300, 4)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(vectors[8], (await engine.embed([texts[8]]))[0], atol=1e-6)
        assert (await engine.embed([])).shape == (0, 4)


async def test_each_tenant_sees_its_own_moments(real_repository: Path) -> None:
    async with running(real_repository, memo_rows=0) as engine:
        plan = engine.compile(GRAPH, ["moments"])
        vectors = await engine.embed(["my card is lost", "thank you"])
        sets = [make_prototypes(f"t{i}", {f"l{i}": ["phrase"]}, {f"l{i}": 0.9}, vectors[i : i + 1]) for i in (0, 1)]
        found = await asyncio.gather(
            *(
                engine.run(plan, {"text": text, "speaker": "customer"}, prototypes=prototypes)
                for text in ("my card is lost", "thank you")
                for prototypes in (*sets, None)
            )
        )
        labels = [[claim["label"] for claim in outputs["moments"].value] for outputs in found]
        assert labels[0] == ["l0"]
        assert labels[4] == ["l1"]
        assert labels[2] == labels[5] == []
