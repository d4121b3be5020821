"""What fails alone, and what is loud."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from inference.backends.contract import Tensors
from inference.backends.fake import FakeBackend
from inference.errors import ModelFailed, OverloadedError
from inference.request import Outcome, Request
from tests.inference.engine.running import GRAPH, POISON, Gate, poisoned, running, submit


async def test_one_poisonous_row_fails_alone(repository: Path) -> None:
    backend = FakeBackend()
    gate = Gate()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        backend.script = gate
        blocker = submit(engine, plan, "help")
        await gate.wait_entered()
        rows = [submit(engine, plan, f"{word} card") for word in ("my", "poison", "order", "late", "a")]
        backend.script = poisoned
        gate.open.release(10)
        outcomes = [await answers.outcome() for answers in (blocker, *rows)]
        assert outcomes == [Outcome.DONE, Outcome.DONE, Outcome.FAILED, Outcome.DONE, Outcome.DONE, Outcome.DONE]
        error = rows[1].ends[0][1]
        assert isinstance(error, ModelFailed)
        assert "quoting" not in error.message
        assert engine.is_ready


async def test_a_model_that_loses_a_row_fails_its_rows_and_no_others(repository: Path) -> None:
    class Short(FakeBackend):
        def load(self, version: Any) -> Any:
            model = super().load(version)
            run = model.run

            def shortened(inputs: Tensors, outputs: Sequence[str], deadline_s: float = math.inf) -> Tensors:
                found = run(inputs, outputs, deadline_s)
                poisonous = (inputs["input_ids"] == POISON).any()
                return {name: rows[:-1] if poisonous else rows for name, rows in found.items()}

            model.run = shortened  # type: ignore[method-assign]
            return model

    async with running(repository, backend=Short()) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        bad, good = submit(engine, plan, "poison"), submit(engine, plan, "card")
        assert await bad.outcome() is Outcome.FAILED
        assert await good.outcome() is Outcome.DONE


async def test_a_consumer_that_raises_costs_nobody_else(repository: Path) -> None:
    async with running(repository, backend=FakeBackend()) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

        def raises(*_: object) -> None:
            raise KeyError("consumer")

        inputs = {"text": "card", "speaker": "customer"}
        engine.submit(Request(plan=plan, inputs=inputs, owner="a", key="", on_outputs=raises, on_done=raises))
        assert await submit(engine, plan).outcome() is Outcome.DONE
        assert [type(context["exception"]) for context in told] == [KeyError, KeyError]
        asyncio.get_running_loop().set_exception_handler(None)


async def test_a_row_that_ended_when_a_thread_died_ends_no_second_time(repository: Path) -> None:
    backend, gate = FakeBackend(slots=2), Gate()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        backend.script = gate
        running_row = submit(engine, plan, "help")
        await gate.wait_entered()

        def die(_: Tensors) -> None:
            raise SystemExit

        backend.script = die
        dying = submit(engine, plan, "my card")
        assert await running_row.outcome() is await dying.outcome() is Outcome.FAILED
        gate.open.release(10)
        await engine.stop()
        await asyncio.sleep(0)
        assert len(running_row.ends) == 1
        assert not told
        asyncio.get_running_loop().set_exception_handler(None)


async def test_a_thread_that_dies_is_loud_and_leaves_nobody_waiting(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])

        def die(_: Tensors) -> None:
            raise SystemExit

        backend.script = die
        answers = submit(engine, plan)
        assert await answers.outcome() is Outcome.FAILED
        assert not engine.is_ready
        with pytest.raises(OverloadedError):
            submit(engine, plan)
        assert "an engine thread died" in caplog.text
