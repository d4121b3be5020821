"""Work not done: what was said before, and equal rows of a batch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.backends.fake import FakeBackend
from inference.errors import ModelFailed
from inference.graph import Graph, Node
from inference.prototypes import make_prototypes
from inference.request import Outcome, RowClass
from tests.inference.engine.running import GRAPH, Gate, close, running, submit
from tests.inference.tiny_models import WORDS


async def test_the_same_words_again_never_reach_the_model(repository: Path) -> None:
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, None)
        first = submit(engine, plan, "my card is lost")
        await first.outcome()
        backend.runs.clear()
        again = submit(engine, plan, "My  CARD is lost", speaker="agent", owner="other")
        await again.outcome()
        assert not backend.runs
        assert again.values["sentiment"] == first.values["sentiment"]
        assert again.values["intent"] is None, "conditions are the second row's own"
        assert engine.stats().skipped == {"same_text": 1}


async def test_texts_are_embedded_alike_from_memory_and_not(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        texts = [f"my card is {word}" for word in WORDS[5:8]]
        first = await engine.embed(texts[:2])
        again = await engine.embed([texts[1], texts[2], texts[0]])
        assert np.array_equal(again[[2, 0]], first)
        stats = engine.stats()
        assert (stats.submitted, stats.rows, stats.skipped) == (5, 3, {"same_text": 2})


async def test_what_is_remembered_is_recalled_without_a_request(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        texts = [f"my card is {word}" for word in WORDS[5:7]]
        (vector,) = await engine.embed(texts[:1])
        known, unknown = engine.recall("utterance", texts)
        assert known is not None
        assert np.array_equal(known, vector)
        assert unknown is None
        assert engine.recall("utterance", texts[:1], output="retrieval") == [None], "nobody asked for that one"
        engine.forget_words()
        assert engine.recall("utterance", texts) == [None, None]


async def test_vectors_of_two_versions_are_never_put_together(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        texts = [f"my card is {word}" for word in WORDS[5:8]]
        of_one, of_other = [await engine.embed(texts, version) for version in (1, 2)]
        assert not np.allclose(of_one, of_other)
        engine.forget_words()
        await engine.embed(texts[:1], 2)
        embedding = asyncio.ensure_future(engine.embed(texts))
        # Served between the look into the memory and the requests for the others.
        asyncio.get_running_loop().call_soon(engine.serve_version, "utterance", 1)
        assert np.allclose(await embedding, of_other, atol=1e-6)


async def test_memory_says_what_the_model_said_for_every_speaker_and_tenant(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        plan = engine.compile(GRAPH, None)
        vectors = await engine.embed(["my card is lost"])
        tenant = make_prototypes("t", {"loss": ["my card is lost"]}, {"loss": 0.0}, vectors)
        texts = [f"my card is {word}" for word in WORDS[5:20]]
        for speaker, prototypes in (("customer", tenant), ("agent", None)):
            computed = [submit(engine, plan, t, speaker=speaker, is_final=True, prototypes=prototypes) for t in texts]
            await asyncio.gather(*(answers.outcome() for answers in computed))
            recalled = [submit(engine, plan, t, speaker=speaker, is_final=True, prototypes=prototypes) for t in texts]
            await asyncio.gather(*(answers.outcome() for answers in recalled))
            for first, second in zip(computed, recalled, strict=True):
                assert list(second.values) == list(first.values)
                assert second.values == close(first.values)
        assert engine.stats().skipped["same_text"] >= 2 * len(texts)


async def test_memory_of_before_a_tensor_was_asked_for_is_not_believed_to_have_it(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        nodes = {
            "tokens": Node(op="tokenize", model="utterance", inputs=("text",)),
            "encoder": Node(op="model", model="utterance", inputs=("tokens",)),
            "mood": Node(op="classify", inputs=("encoder.sentiment_logits",)),
        }
        plan = engine.compile(Graph("mood", {"text": "string"}, nodes, ("mood",)), None)
        await submit(engine, plan, "my card is lost").outcome()
        assert (await engine.embed(["my card is lost"])).shape == (1, 4)


async def test_an_interim_that_changed_only_punctuation_is_answered_from_memory_and_a_final_is_not(
    repository: Path,
) -> None:
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, None)
        await submit(engine, plan, "my card is", key="u", revision=1, row_class=RowClass.INTERIM).outcome()
        backend.runs.clear()
        interim = submit(engine, plan, "My card, is.", key="u", revision=2, row_class=RowClass.INTERIM)
        await interim.outcome()
        assert not backend.runs
        assert engine.stats().skipped == {"same_words": 1}
        other_call = submit(engine, plan, "My card, is.", key="v", revision=2, row_class=RowClass.INTERIM)
        await other_call.outcome()
        assert len(backend.runs) == 1
        final = submit(engine, plan, "My card is?", key="u", revision=3, row_class=RowClass.FINAL)
        await final.outcome()
        assert len(backend.runs) == 2


async def test_equal_rows_of_a_batch_are_computed_once(repository: Path) -> None:
    backend = FakeBackend()
    gate = Gate()
    async with running(repository, backend=backend, memo_rows=0) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        backend.runs.clear()
        backend.script = gate
        blocker = submit(engine, plan, "help")
        await gate.wait_entered()
        twins = [submit(engine, plan, text) for text in ("thank you", "Thank you", "order now")]
        gate.open.release(10)
        for answers in (blocker, *twins):
            assert await answers.outcome() is Outcome.DONE
        assert [run[:2] for run in backend.runs] == [(1, 3), (2, 4)]
        assert twins[0].values == twins[1].values != twins[2].values
        assert engine.stats().skipped == {"same_batch": 1}


async def test_what_was_no_number_fails_again_from_memory_and_nobody_else(repository: Path) -> None:
    class Broken(FakeBackend):
        def load(self, version: Any) -> Any:
            model = super().load(version)
            run = model.run

            def run_to_nan(*arguments: Any) -> Any:
                return {name: np.full_like(array, np.nan) for name, array in run(*arguments).items()}

            model.run = run_to_nan  # type: ignore[method-assign]
            return model

    async with running(repository, backend=Broken()) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        for _ in range(2):  # computed, remembered
            answers = submit(engine, plan)
            assert await answers.outcome() is Outcome.FAILED
            assert isinstance(answers.ends[0][1], ModelFailed)
        assert engine.stats().skipped == {"same_text": 1}
        with pytest.raises(ModelFailed, match="not finite"):
            await engine.embed(["thank you"])
