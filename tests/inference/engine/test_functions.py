"""Registered functions: what waits for them, what they are given, what their failure costs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.backends.fake import FakeBackend
from inference.errors import InferenceError, ModelFailed
from inference.graph import parse_graph
from inference.request import Outcome
from tests.inference.engine.running import GRAPH, HEADS, running, submit


async def test_a_slow_lookup_holds_back_nothing_but_itself(repository: Path) -> None:
    entered, release = threading.Event(), threading.Event()

    def slow(_: np.ndarray, texts: Sequence[str], rows: Sequence[Any]) -> list[str]:
        entered.set()
        assert release.wait(30)
        return [text.upper() for text in texts]

    async with running(repository, backend=FakeBackend(), operators={"retrieve": slow}) as engine:
        plan = engine.compile(GRAPH, None)
        answers = submit(engine, plan, "lost", is_final=True)
        assert await asyncio.to_thread(entered.wait, 30)
        # The lookup has begun, so the heads have been handed to the loop; and another row goes through meanwhile.
        other = submit(engine, plan, "my card", is_final=False)
        assert await other.outcome() is Outcome.DONE
        assert set(answers.outputs) == set(HEADS)
        release.set()
        assert await answers.outcome() is Outcome.DONE
        assert answers.values["passages"] == "LOST"


async def test_a_lookup_that_fails_costs_only_its_own_row_its_outputs(repository: Path) -> None:
    def picky(_: np.ndarray, texts: Sequence[str], rows: Sequence[Any]) -> list[str]:
        if "poison" in texts:
            raise ValueError(texts)
        return list(texts)

    async with running(repository, backend=FakeBackend(), operators={"retrieve": picky}) as engine:
        plan = engine.compile(GRAPH, None)
        rows = [submit(engine, plan, text, is_final=True) for text in ("my", "poison", "card")]
        assert [await answers.outcome() for answers in rows] == [Outcome.DONE, Outcome.FAILED, Outcome.DONE]
        assert set(rows[1].outputs) == set(HEADS)
        assert isinstance(rows[1].ends[0][1], ModelFailed)
        assert "poison" not in str(rows[1].ends[0][1])


async def test_a_graph_that_needs_an_unregistered_function_is_refused(repository: Path) -> None:
    async with running(repository, backend=FakeBackend(), operators={}) as engine:
        with pytest.raises(InferenceError, match="nothing is registered as 'retrieve'"):
            engine.compile(GRAPH, None)


async def test_a_python_node_gets_what_it_reads_by_name(repository: Path) -> None:
    graph = parse_graph(
        """
name: shout
inputs: {text: string, volume: float}
nodes:
  louder: {op: python, function: shout, inputs: [text, volume], params: {mark: "!"}}
outputs: [louder]
""",
        "shout.yaml",
    )

    def shout(_: np.ndarray, texts: Sequence[str], rows: Sequence[Any]) -> list[str]:
        return [text + row["mark"] * int(row["volume"]) for text, row in zip(texts, rows, strict=True)]

    async with running(repository, backend=FakeBackend(), operators={"shout": shout}) as engine:
        plan = engine.compile(graph, None)
        outputs = await engine.run(plan, {"text": "help", "volume": 3.0})
        assert outputs["louder"].value == "help!!!"
