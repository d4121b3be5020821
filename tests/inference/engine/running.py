"""A running engine over a small guidance graph, and what its requests are called back with."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.backends.contract import Tensors
from inference.backends.fake import FakeBackend
from inference.engine import Engine, EngineSettings
from inference.graph import parse_graph
from inference.plan import Plan
from inference.repository import ModelRepository
from inference.request import Outcome, Output, Request
from tests.inference.tiny_models import WORDS

GRAPH = parse_graph(
    """
name: guidance
inputs: {text: string, speaker: [customer, agent], is_final: bool}
nodes:
  tokens:    {op: tokenize, model: utterance, inputs: [text]}
  utterance: {op: model, model: utterance, inputs: [tokens]}
  intent:    {op: classify, inputs: [utterance.intent_logits], when: speaker == customer}
  sentiment: {op: classify, inputs: [utterance.sentiment_logits]}
  actions:   {op: classify, inputs: [utterance.actions_logits]}
  question:  {op: classify, inputs: [utterance.question_logits]}
  moments:   {op: classify, inputs: [utterance.embedding], prototypes: tenant}
  passages:  {op: retrieve, inputs: [utterance.embedding, text], when: is_final, top_k: 3}
outputs: [intent, sentiment, actions, question, moments, passages]
""",
    "guidance.yaml",
)
HEADS = ("intent", "sentiment", "actions", "question", "moments")
POISON = WORDS.index("poison")


def retrieve(_: np.ndarray, texts: Sequence[str], rows: Sequence[Any]) -> list[str]:
    return [f"{row['top_k']} about {text}" for text, row in zip(texts, rows, strict=True)]


@asynccontextmanager
async def running(
    repository: Path,
    *,
    backend: FakeBackend | None = None,
    operators: Any = None,
    observer: Any = None,
    **settings: Any,
) -> AsyncIterator[Engine]:
    engine = Engine(
        ModelRepository.open(repository),
        EngineSettings(**settings),
        {"retrieve": retrieve} if operators is None else operators,
        observer=observer,
        backends={"fake": backend} if backend is not None else None,
    )
    await engine.start()
    try:
        yield engine
    finally:
        if backend is not None:
            backend.script = lambda _: None
        await engine.stop()


class Gate:
    """A script that lets runs through one by one."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def __call__(self, _: Tensors) -> None:
        self.entered.release()
        assert self.open.acquire(timeout=30)

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=30)


class Answers:
    """Collects what one request is called back with."""

    def __init__(self) -> None:
        self.outputs: dict[str, Output] = {}
        self.ends: list[tuple[Outcome, BaseException | None]] = []
        self.done = asyncio.Event()

    def on_outputs(self, outputs: Sequence[Output]) -> None:
        assert not self.ends, "an output after the end"
        assert outputs, "called with nothing"
        assert threading.current_thread() is threading.main_thread()
        for output in outputs:
            assert output.name not in self.outputs, "an output twice"
            self.outputs[output.name] = output

    def on_done(self, outcome: Outcome, error: BaseException | None) -> None:
        assert not self.ends, "ended twice"
        self.ends.append((outcome, error))
        self.done.set()

    async def outcome(self) -> Outcome:
        async with asyncio.timeout(30):
            await self.done.wait()
        return self.ends[0][0]

    @property
    def values(self) -> dict[str, Any]:
        return {name: output.value for name, output in self.outputs.items()}


_keys = itertools.count()


def submit(engine: Engine, plan: Plan, text: str = "my card is lost", **fields: Any) -> Answers:
    answers = Answers()
    inputs = {"text": text, "speaker": fields.pop("speaker", "customer"), "is_final": fields.pop("is_final", False)}
    request = Request(
        plan=plan,
        inputs=inputs,
        owner=fields.pop("owner", "call"),
        key=fields.pop("key", f"u{next(_keys)}"),
        on_outputs=answers.on_outputs,
        on_done=answers.on_done,
        **fields,
    )
    engine.submit(request)
    assert not answers.outputs
    assert not answers.ends, "called back from within submit"
    return answers


def poisoned(inputs: Tensors) -> None:
    if (inputs["input_ids"] == POISON).any():
        raise RuntimeError("quoting the input is what a runtime may do")


def close(value: Any) -> Any:
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-5)
    if isinstance(value, dict):
        return {key: close(inner) for key, inner in value.items()}
    return [close(inner) for inner in value] if isinstance(value, list) else value
