"""Life of an engine: stopping, being observed, a storm."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.backends.fake import FakeBackend
from inference.engine import Engine
from inference.errors import InferenceError, OverloadedError
from inference.observer import SilentObserver
from inference.repository import ModelRepository
from inference.request import Outcome, RowClass
from tests.inference.engine.running import GRAPH, Answers, Gate, poisoned, retrieve, running, submit
from tests.inference.tiny_models import WORDS


async def test_stop_answers_what_is_under_way_and_refuses_the_rest(repository: Path) -> None:
    backend = FakeBackend()
    gate = Gate()
    engine = Engine(ModelRepository.open(repository), operators={"retrieve": retrieve}, backends={"fake": backend})
    with pytest.raises(InferenceError):
        submit(engine, engine.compile(GRAPH, None))
    await engine.start()
    plan = engine.compile(GRAPH, None)
    backend.script = gate
    rows = [submit(engine, plan, text, is_final=True) for text in ("my card", "help", "thank you")]
    await gate.wait_entered()
    stopping = asyncio.create_task(engine.stop())
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        submit(engine, plan, "too late")
    gate.open.release(10)
    assert [await answers.outcome() for answers in rows] == [Outcome.DONE] * 3
    await stopping
    assert threading.active_count() >= 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine")]


async def test_stop_does_not_wait_for_ever(repository: Path) -> None:
    backend = FakeBackend()
    gate = Gate()
    engine = Engine(ModelRepository.open(repository), operators={"retrieve": retrieve}, backends={"fake": backend})
    await engine.start()
    plan = engine.compile(GRAPH, ["sentiment"])
    backend.script = gate
    first = submit(engine, plan, "my card")
    await gate.wait_entered()
    queued = submit(engine, plan, "thank you")
    stopping = asyncio.create_task(engine.stop(timeout_s=0.0))
    assert await queued.outcome() is Outcome.CANCELLED
    gate.open.release(10)
    await stopping
    assert await first.outcome() is Outcome.DONE


async def test_what_happens_is_observed_and_counted(repository: Path) -> None:
    class Observer(SilentObserver):
        def __init__(self) -> None:
            self.heard: list[tuple[Any, ...]] = []

        def queue_delay(self, row_class: RowClass, delay_s: float) -> None:
            self.heard.append(("queue_delay", row_class))

        def batch(self, model: str, rows: int, tokens: int, padded_tokens: int, duration_s: float) -> None:
            self.heard.append(("batch", model, rows, tokens, padded_tokens))

        def node(self, node: str, duration_s: float, *, is_failed: bool) -> None:
            self.heard.append(("node", node, is_failed))

        def dropped(self, reason: str) -> None:
            self.heard.append(("dropped", reason))

    observer = Observer()
    async with running(repository, backend=FakeBackend(), observer=observer) as engine:
        plan = engine.compile(GRAPH, None)
        await submit(engine, plan, "my card", is_final=True).outcome()
        late = submit(engine, plan, deadline_s=0.0)
        assert await late.outcome() is Outcome.LATE
        assert observer.heard == [
            ("node", "utterance", False),
            ("batch", "utterance", 1, 4, 4),
            ("queue_delay", RowClass.FINAL),
            ("node", "passages", False),
            ("dropped", "late"),
        ]
        stats = engine.stats()
        assert (stats.submitted, stats.rows, stats.batches, stats.tokens) == (2, 1, 1, 4)
        assert stats.padding_ratio == 0.0
        assert set(stats.costs) == {"utterance/1"}


async def test_a_storm_of_requests_answers_each_exactly_once(repository: Path) -> None:
    """Every class, deadlines, revisions, cancellations and a failing model at once."""
    rng = np.random.default_rng(7)
    backend = FakeBackend(script=poisoned, slots=2)
    async with running(repository, backend=backend, max_queue_rows=64) as engine:
        plans = [engine.compile(GRAPH, names) for names in (None, ["intent"], ["sentiment", "moments"])]
        every: list[Answers] = []
        refused = 0
        for i in range(600):
            text = " ".join(rng.choice(WORDS[5:], size=rng.integers(0, 20)))
            try:
                every.append(
                    submit(
                        engine,
                        plans[i % 3],
                        text,
                        owner=f"call{rng.integers(8)}",
                        key=f"u{rng.integers(3)}",
                        revision=i,
                        row_class=RowClass(int(rng.integers(3))),
                        deadline_s=time.monotonic() + float(rng.choice([0.0, 0.001, 60.0])),
                        is_final=bool(rng.integers(2)),
                    )
                )
            except OverloadedError:
                refused += 1
            if i % 50 == 49:
                engine.cancel(f"call{rng.integers(8)}")
                await asyncio.sleep(0)
        outcomes = [await answers.outcome() for answers in every]
        stats = engine.stats()
        assert len(outcomes) + refused == stats.submitted == 600
        assert outcomes.count(Outcome.DONE) + sum(stats.dropped.values()) == 600
        assert stats.under_way == 0
        for answers, outcome in zip(every, outcomes, strict=True):
            if outcome is Outcome.FAILED:
                assert not answers.outputs
