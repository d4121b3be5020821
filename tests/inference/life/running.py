"""An engine with a keeper over a repository of tiny real models, and a way to wait for what it does."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from inference.engine import Engine
from inference.graph import parse_graph
from inference.life.keeper import Keeper
from inference.life.settings import LifeSettings
from inference.life.shadow import Comparison
from inference.life.status import VersionStatus
from inference.repository import ModelRepository
from inference.settings import EngineSettings

GRAPH = parse_graph(
    """
name: guidance
inputs: {text: string, speaker: [customer, agent]}
nodes:
  tokens:    {op: tokenize, model: utterance, inputs: [text]}
  utterance: {op: model, model: utterance, inputs: [tokens]}
  intent:    {op: classify, inputs: [utterance.intent_logits], when: speaker == customer}
  sentiment: {op: classify, inputs: [utterance.sentiment_logits]}
  question:  {op: classify, inputs: [utterance.question_logits]}
outputs: [intent, sentiment, question]
""",
    "guidance.yaml",
)


class PinsNothing:
    """Half of a `Consumer`: one that asks for no version by number."""

    def pins(self) -> frozenset[tuple[str, int]]:
        return frozenset()


class Events:
    """A `LifeObserver` that tests wait on."""

    def __init__(self) -> None:
        self.changes: list[str] = []
        self.results = Counter[Comparison]()
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def changed(self, model: str, change: str) -> None:
        self.changes.append(change)
        self._wake()

    def compared(self, model: str, output: str, result: Comparison) -> None:
        self.results[result] += 1
        self._wake()

    def _wake(self) -> None:
        async def wake() -> None:
            async with self._news:
                self._news.notify_all()

        task = asyncio.get_running_loop().create_task(wake())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def until(self, is_so: Any) -> None:
        async with asyncio.timeout(30), self._news:
            await self._news.wait_for(is_so)

    async def saw(self, change: str, times: int = 1) -> None:
        await self.until(lambda: self.changes.count(change) >= times)


class Running:
    def __init__(self, engine: Engine, keeper: Keeper, events: Events) -> None:
        self.engine, self.keeper, self.events = engine, keeper, events
        self.plan = engine.compile(GRAPH, None)

    async def ask(self, text: str = "my card is lost", owner: str = "call", **fields: Any) -> int:
        """Version that answers."""
        outputs = await self.engine.run(self.plan, {"text": text, "speaker": "customer"}, owner=owner, **fields)
        (version,) = {output.version for output in outputs.values()}
        return version

    def version(self, number: int) -> VersionStatus:
        (model,) = self.keeper.status()
        return next(version for version in model.versions if version.version == number)


@asynccontextmanager
async def running(
    repository: Path,
    *,
    trial: Any = None,
    backends: Any = None,
    memo_rows: int = 0,
    clock: Any = None,
    wall_s: Any = time.time,
    **life: Any,
) -> AsyncIterator[Running]:
    events = Events()
    settings = LifeSettings(**{"poll_s": 0.02, "settle_s": 0.0, "max_latency_ratio": 1e9, **life})
    timing = {"clock": clock} if clock is not None else {}
    engine = Engine(ModelRepository.open(repository), EngineSettings(memo_rows=memo_rows), backends=backends, **timing)
    keeper = Keeper(
        engine,
        repository,
        repository.parent / "models.json",
        settings,
        trial=trial,
        observer=events,
        wall_s=wall_s,
        **timing,
    )
    await engine.start(wishes=keeper.wishes)
    await keeper.start()
    try:
        yield Running(engine, keeper, events)
    finally:
        await keeper.stop()
        await engine.stop()
