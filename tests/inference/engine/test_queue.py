"""The queue seen from outside: every request ends once, rows that wait share a batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.backends.fake import FakeBackend
from inference.engine import Engine, EngineSettings
from inference.errors import OverloadedError
from inference.repository import ModelRepository
from inference.request import Outcome, RowClass
from tests.inference.engine.running import GRAPH, Gate, retrieve, running, submit


async def test_superseded_cancelled_late_and_refused_rows_are_each_told_once(repository: Path) -> None:
    backend = FakeBackend()
    gate = Gate()
    now_s = 100.0
    engine = Engine(
        ModelRepository.open(repository),
        EngineSettings(max_queue_rows=3, memo_rows=0),
        {"retrieve": retrieve},
        backends={"fake": backend},
        clock=lambda: now_s,
    )
    await engine.start()
    plan = engine.compile(GRAPH, ["sentiment"])
    backend.script = gate
    running_row = submit(engine, plan, "help")
    await gate.wait_entered()
    old = submit(engine, plan, "my card", key="u", revision=1, row_class=RowClass.INTERIM)
    new = submit(engine, plan, "my card is", key="u", revision=2, row_class=RowClass.INTERIM)
    gone = submit(engine, plan, "thank you", owner="hung-up")
    late = submit(engine, plan, "order", deadline_s=101.0)
    too_late = submit(engine, plan, "order now", deadline_s=99.0)
    with pytest.raises(OverloadedError):
        submit(engine, plan, "one too many")
    engine.cancel("hung-up")
    now_s = 102.0
    gate.open.release(10)
    outcomes = [await answers.outcome() for answers in (running_row, old, new, gone, late, too_late)]
    assert outcomes == [
        Outcome.DONE,
        Outcome.SUPERSEDED,
        Outcome.DONE,
        Outcome.CANCELLED,
        Outcome.LATE,
        Outcome.LATE,
    ]
    stats = engine.stats()
    assert stats.dropped == {"superseded": 1, "cancelled": 1, "late": 2, "full": 1}
    assert stats.under_way == stats.queued_rows == 0
    await engine.stop()


async def test_rows_that_wait_share_a_batch(repository: Path) -> None:
    backend = FakeBackend()
    gate = Gate()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        backend.runs.clear()
        backend.script = gate
        first = submit(engine, plan, "help")
        await gate.wait_entered()
        others = [submit(engine, plan, f"{word} card") for word in ("my", "lost", "order", "late")]
        gate.open.release(10)
        for answers in (first, *others):
            assert await answers.outcome() is Outcome.DONE
        assert [run[:2] for run in backend.runs] == [(1, 3), (4, 4)]
