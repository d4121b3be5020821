"""Rows with a further step to wait for: a second model, a registered function. They end as rows of the first one do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.backends.contract import Tensors
from inference.backends.fake import FakeBackend
from inference.engine import Engine, EngineSettings
from inference.errors import OverloadedError
from inference.graph import Graph, Node
from inference.repository import ModelRepository
from inference.request import Outcome, RowClass
from tests.inference.engine.running import GRAPH, Answers, Gate, running, submit
from tests.inference.manual_clock import Clock
from tests.inference.model_folders import write_model, write_scorer
from tests.inference.tiny_models import bert_tokenizer

TWO_MODELS = Graph(
    "two",
    {"text": "string", "speaker": ("customer", "agent"), "is_final": "bool"},
    {
        "tokens": Node("tokenize", ("text",), model="utterance"),
        "first": Node("model", ("tokens",), model="utterance"),
        "score": Node("classify", ("first.dissatisfied_logits",)),
        "second": Node("model", ("tokens",), model="second", when="score.score >= 0"),
        "mood": Node("classify", ("second.sentiment_logits",)),
    },
    ("score", "mood"),
)


@dataclass
class Lookup:
    """A registered function that blocks until it is opened."""

    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    open: threading.Event = field(default_factory=threading.Event)

    def __call__(self, _: np.ndarray, texts: Sequence[str], rows: Sequence[Any]) -> list[str]:
        self.entered.release()
        assert self.open.wait(30)
        return [text.upper() for text in texts]

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=30)


@asynccontextmanager
async def looking_up(
    repository: Path, clock: Clock, **settings: Any
) -> AsyncIterator[tuple[Engine, Any, Lookup, Answers]]:
    """An engine whose one function thread is busy with a first row, so that others wait for it.

    The words are remembered: their rows go to the function from within `submit`.
    """
    lookup = Lookup()
    engine = Engine(
        ModelRepository.open(repository),
        EngineSettings(**settings),
        {"retrieve": lookup},
        backends={"fake": FakeBackend()},
        clock=clock,
    )
    await engine.start()
    try:
        plan = engine.compile(GRAPH, ["sentiment", "passages"])
        first = submit(engine, plan, is_final=True)
        await lookup.wait_entered()
        yield engine, plan, lookup, first
    finally:
        lookup.open.set()
        await engine.stop()


async def test_what_waits_for_a_function_is_cancelled_with_its_call(repository: Path) -> None:
    async with looking_up(repository, Clock(100.0)) as (engine, plan, lookup, first):
        gone = submit(engine, plan, is_final=True, owner="gone")
        stays = submit(engine, plan, is_final=True, owner="stays")
        engine.cancel("gone")
        assert await gone.outcome() is Outcome.CANCELLED
        lookup.open.set()
        assert await first.outcome() is await stays.outcome() is Outcome.DONE
        assert engine.stats().dropped == {"cancelled": 1}


async def test_what_waits_for_a_function_beyond_its_deadline_is_late(repository: Path) -> None:
    clock = Clock(100.0)
    async with looking_up(repository, clock) as (engine, plan, lookup, first):
        late = submit(engine, plan, is_final=True, deadline_s=clock.now_s + 1.0)
        in_time = submit(engine, plan, is_final=True, deadline_s=clock.now_s + 3.0)
        clock.now_s += 2.0
        lookup.open.set()
        assert await late.outcome() is Outcome.LATE
        assert await first.outcome() is await in_time.outcome() is Outcome.DONE


async def test_rows_of_one_function_with_other_parameters_are_not_called_together(repository: Path) -> None:
    lookup = Lookup()

    def call(vectors: np.ndarray, texts: Sequence[str], rows: Sequence[Any]) -> list[str]:
        lookup(vectors, texts, rows)
        return [row["mark"] for row in rows]

    inputs: dict[str, Any] = {"text": "string", "speaker": ("customer", "agent"), "is_final": "bool"}
    async with running(repository, backend=FakeBackend(), operators={"mark": call}) as engine:
        graphs = [
            Graph("marks", inputs, {"m": Node("python", ("text",), function="mark", params={"mark": mark})}, ("m",))
            for mark in "ab"
        ]
        plans = [engine.compile(graph, None) for graph in graphs]
        rows = [submit(engine, plans[0])]
        await lookup.wait_entered()
        rows += [submit(engine, plans[i % 2]) for i in range(4)]
        lookup.open.set()
        assert [await answers.outcome() for answers in rows] == [Outcome.DONE] * 5
        assert [answers.values["m"] for answers in rows] == ["a", "a", "b", "a", "b"]


async def test_too_many_rows_for_a_function_are_refused(repository: Path) -> None:
    async with looking_up(repository, Clock(100.0), max_queue_rows=2) as (engine, plan, lookup, _):
        waiting = [submit(engine, plan, is_final=True) for _ in range(2)]
        with pytest.raises(OverloadedError, match="queue full"):
            submit(engine, plan, is_final=True)
        assert engine.stats().dropped == {"full": 1}
        lookup.open.set()
        assert [await answers.outcome() for answers in waiting] == [Outcome.DONE] * 2


async def test_a_row_that_finds_too_many_before_the_function_fails_with_what_it_has(repository: Path) -> None:
    async with looking_up(repository, Clock(100.0), max_queue_rows=2) as (engine, plan, lookup, _):
        waiting = [submit(engine, plan, is_final=True) for _ in range(2)]
        refused = submit(engine, plan, "order now", is_final=True)  # not remembered: the model is asked first
        assert await refused.outcome() is Outcome.FAILED
        assert isinstance(refused.ends[0][1], OverloadedError)
        assert set(refused.outputs) == {"sentiment"}
        lookup.open.set()
        assert [await answers.outcome() for answers in waiting] == [Outcome.DONE] * 2


async def test_stop_waits_for_no_function_for_ever(repository: Path) -> None:
    async with looking_up(repository, Clock(100.0)) as (engine, plan, lookup, first):
        waiting = submit(engine, plan, is_final=True)
        stopping = asyncio.create_task(engine.stop(timeout_s=0.0))
        assert await waiting.outcome() is Outcome.CANCELLED
        lookup.open.set()
        await stopping
        assert await first.outcome() is Outcome.DONE


# -- a second model ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def two_models(folder: Path, clock: Clock) -> AsyncIterator[tuple[Engine, Any, FakeBackend, Gate]]:
    """An engine of one worker, whose runs a gate lets through one by one."""
    for name in ("utterance", "second"):
        write_model(folder, name, tokenizer=bert_tokenizer().to_str())
    backend, gate = FakeBackend(), Gate()
    engine = Engine(
        ModelRepository.open(folder),
        EngineSettings(workers=1, memo_rows=0, max_batch_rows=1),
        backends={"fake": backend},
        clock=clock,
    )
    await engine.start()
    plan = engine.compile(TWO_MODELS, None)
    backend.script = gate
    try:
        yield engine, plan, backend, gate
    finally:
        gate.open.release(100)
        await engine.stop()


async def test_a_newer_revision_replaces_the_older_one_before_the_second_model(tmp_path: Path) -> None:
    async with two_models(tmp_path, Clock(100.0)) as (engine, plan, _, gate):
        older = submit(engine, plan, "my card", key="u", revision=1, row_class=RowClass.INTERIM)
        await gate.wait_entered()
        # Both come to the first model before the older one comes to the second.
        newer = submit(engine, plan, "my card is", key="u", revision=2, row_class=RowClass.INTERIM)
        gate.open.release(100)
        assert await older.outcome() is Outcome.SUPERSEDED
        assert set(older.outputs) == {"score"}
        assert await newer.outcome() is Outcome.DONE
        assert engine.stats().dropped == {"superseded": 1}


async def test_a_row_whose_deadline_passed_meanwhile_never_reaches_the_second_model(tmp_path: Path) -> None:
    clock = Clock(100.0)
    async with two_models(tmp_path, clock) as (engine, plan, backend, gate):
        answers = submit(engine, plan, deadline_s=clock.now_s + 1.0)
        await gate.wait_entered()
        num_runs = len(backend.runs)
        clock.now_s += 2.0
        gate.open.release(100)
        assert await answers.outcome() is Outcome.LATE
        assert set(answers.outputs) == {"score"}
        assert len(backend.runs) == num_runs


async def test_times_of_an_output_behind_two_models_are_of_both(tmp_path: Path) -> None:
    clock = Clock(100.0)
    async with two_models(tmp_path, clock) as (engine, plan, _, gate):
        answers = submit(engine, plan)
        await gate.wait_entered()
        clock.now_s += 2.0
        gate.open.release()
        await gate.wait_entered()
        clock.now_s += 3.0
        gate.open.release()
        assert await answers.outcome() is Outcome.DONE
        mood = answers.outputs["mood"]
        assert (mood.started_s, mood.ready_s, mood.compute_ms) == (100.0, 105.0, 5000.0)
        assert answers.outputs["score"].ready_s == 102.0


async def test_the_waits_for_both_models_add_up(tmp_path: Path) -> None:
    clock = Clock(100.0)
    async with two_models(tmp_path, clock) as (engine, plan, _, gate):
        blocker = submit(engine, plan, "help")
        await gate.wait_entered()
        answers = submit(engine, plan, "my card")
        for waited_s in (1.0, 2.0, 4.0):  # blocker in the first, this in the first, blocker in the second
            clock.now_s += waited_s
            gate.open.release()
            await gate.wait_entered()
        gate.open.release()
        assert await answers.outcome() is await blocker.outcome() is Outcome.DONE
        assert answers.outputs["score"].queue_ms == 1000.0
        assert answers.outputs["mood"].queue_ms == 5000.0


async def test_a_run_that_fails_teaches_no_cost(tmp_path: Path) -> None:
    clock = Clock(100.0)
    async with two_models(tmp_path, clock) as (engine, plan, backend, _):
        before = engine.stats().costs

        def fail(_: Tensors) -> None:
            clock.now_s += 1000.0
            raise RuntimeError

        backend.script = fail
        assert await submit(engine, plan).outcome() is Outcome.FAILED
        assert engine.stats().costs == before


async def test_of_shadow_rows_nothing_is_counted_that_nobody_asked_for(repository: Path) -> None:
    clock = Clock(100.0)
    async with looking_up(repository, clock) as (engine, plan, _, _):
        submitted = engine.stats().submitted
        deadline_s = clock.now_s - 1.0
        shadow = submit(engine, plan, "order now", is_final=True, row_class=RowClass.SHADOW, deadline_s=deadline_s)
        assert await shadow.outcome() is Outcome.LATE
        assert engine.stats().submitted == submitted
        assert engine.stats().dropped == {}


# -- who is who --------------------------------------------------------------------------------------------------------


async def test_equal_keys_of_other_calls_and_other_graphs_replace_nothing(repository: Path) -> None:
    backend, gate = FakeBackend(), Gate()
    async with running(repository, backend=backend, memo_rows=0) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        nodes = {name: GRAPH.nodes[name] for name in ("tokens", "utterance", "sentiment")}
        other = engine.compile(Graph("other", GRAPH.inputs, nodes, ("sentiment",)), None)
        backend.script = gate
        blocker = submit(engine, plan, "help")
        await gate.wait_entered()
        rows = [
            submit(engine, plan, "my card", key="u", revision=1, owner="a"),
            submit(engine, plan, "order now", key="u", revision=2, owner="b"),
            submit(engine, other, "thank you", key="u", revision=3, owner="a"),
        ]
        gate.open.release(100)
        assert [await answers.outcome() for answers in (blocker, *rows)] == [Outcome.DONE] * 4


async def test_an_interim_is_compared_with_its_own_call_s_words(repository: Path) -> None:
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        await submit(engine, plan, "my card is", key="u", owner="a", row_class=RowClass.INTERIM).outcome()
        await submit(engine, plan, "my card, is.", key="u", owner="b", row_class=RowClass.INTERIM).outcome()
        assert engine.stats().skipped == {}


async def test_a_batch_may_take_as_long_as_its_last_row_has(repository: Path) -> None:
    class Asked(FakeBackend):
        deadlines: list[float]

        def load(self, version: Any) -> Any:
            model, self.deadlines = super().load(version), []
            run = model.run

            def noted(inputs: Tensors, outputs: Sequence[str], deadline_s: float = 0.0) -> Tensors:
                self.deadlines.append(deadline_s)
                return run(inputs, outputs, deadline_s)

            model.run = noted  # type: ignore[method-assign]
            return model

    backend, gate = Asked(), Gate()
    async with running(repository, backend=backend, memo_rows=0) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        backend.script = gate
        blocker = submit(engine, plan, "help")
        await gate.wait_entered()
        rows = [submit(engine, plan, text, deadline_s=at) for text, at in (("my card", 1e9), ("order now", 2e9))]
        gate.open.release(100)
        assert [await answers.outcome() for answers in (blocker, *rows)] == [Outcome.DONE] * 3
        assert backend.deadlines[-1] == 2e9


# -- rows of numbers ---------------------------------------------------------------------------------------------------


async def test_padded_rows_of_a_second_model_stay_each_call_s_own(tmp_path: Path) -> None:
    """Two plans keep the vectors in other slots, and the backend pads rows up to a bucket."""
    write_model(tmp_path, tokenizer=bert_tokenizer().to_str())
    write_scorer(tmp_path, "scorer", "FP32[4]")
    backend, gate = FakeBackend(is_exact=False), Gate()
    nodes = {
        "tokens": Node("tokenize", ("text",), model="utterance"),
        "first": Node("model", ("tokens",), model="utterance"),
        "second": Node("model", ("first.embedding",), model="scorer"),
        "score": Node("classify", ("second.score",)),
        "acts": Node("classify", ("first.acts_logits",)),
    }
    inputs: dict[str, Any] = {"text": "string", "speaker": ("customer", "agent"), "is_final": "bool"}
    async with running(tmp_path, backend=backend, memo_rows=0, workers=1) as engine:
        plans = [
            engine.compile(Graph("scores", inputs, nodes, outputs), None) for outputs in (("score",), ("score", "acts"))
        ]
        texts = ["help", "my card", "order now"]
        alone = [(await engine.run(plans[0], {"text": text, "speaker": "agent"}))["score"].value for text in texts]
        assert len({value["score"] for value in alone}) == 3
        backend.script = gate
        rows = [submit(engine, plans[0], texts[0])]
        await gate.wait_entered()
        rows += [submit(engine, plan, text) for plan, text in zip(plans, texts[1:], strict=True)]
        gate.open.release(100)
        assert [await answers.outcome() for answers in rows] == [Outcome.DONE] * 3
        assert [answers.values["score"] for answers in rows] == alone
        assert backend.runs[-1] == (4, 4, ("score",)), "they did not share a padded batch"
