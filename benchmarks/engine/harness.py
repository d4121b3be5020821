"""The engine and bare onnxruntime on the same rows in the same run.

Bare onnxruntime is what nothing can beat here: the rows are tokenised before the clock starts, sorted by length as a
whole, cut into perfect batches, and two threads run them without a word of Python in between. Nobody reads the outputs.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from benchmarks.machine import busy_s
from benchmarks.texts import unique_texts
from inference.backends.contract import LoadedModel, Tensors
from inference.backends.onnxruntime import OnnxRuntimeBackend
from inference.engine import Engine, EngineSettings
from inference.graph import read_graph
from inference.plan import Plan
from inference.prototypes import make_prototypes
from inference.repository import ModelRepository, ModelVersion
from inference.request import PrototypeSet, Request, RowClass
from inference.tokens import ID_BYTES, Tokenizer, pad_rows
from server.heap import settle

ROOT = Path(__file__).parents[2]
THREADS = len(os.sched_getaffinity(0))
ROWS = 384
"""Rows of one round: a quarter of a second, short enough to find a quiet moment."""

SUSTAINED_ROWS = 1152
"""Rows of one round where a rate is held against bare onnxruntime's. An engine that is asked begins and ends a round
with what happens to be queued; three times the rows make a third of that."""

IN_FLIGHT = 256
"""Requests under way in a throughput run: 16 full batches, a quarter of the queue."""


def shipped_version() -> ModelVersion:
    """The encoder that ships, or a skip where it is not built."""
    repository = ModelRepository.open(ROOT / "model_repo")
    model = repository.models.get("utterance")
    if model is None or not model.versions:
        pytest.skip("model_repo/utterance is not built; `make models` builds it")
    return model.latest


@dataclass(frozen=True)
class Ratio:
    """One side over the other.

    Attributes:
        value: The ratio.
        tolerance: What others on the machine can make of it: they take caches and half a hyper-threaded core, which
            slows Python more than a model's inner loops, even where their own time is not counted. 0 where there were
            none.
    """

    value: float
    tolerance: float

    def is_at_least(self, bound: float) -> bool:
        return self.value >= bound - self.tolerance

    def is_at_most(self, bound: float) -> bool:
        return self.value <= bound + self.tolerance

    def __str__(self) -> str:
        return f"{self.value:.3f}" + (
            "" if not self.tolerance else f" (of CPU time, +-{self.tolerance}: a busy machine)"
        )


@dataclass
class Side:
    """Wall and CPU seconds of the rounds of one side; CPU seconds are of all threads of the process."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    others_s: float = 0.0
    """CPU seconds that others took from the machine meanwhile."""

    @contextmanager
    def round(self) -> Iterator[None]:
        """Time one round."""
        busy, wall_s, cpu_s = busy_s(), time.perf_counter(), time.process_time()
        yield
        self.wall_s.append(time.perf_counter() - wall_s)
        self.cpu_s.append(time.process_time() - cpu_s)
        self.others_s += busy_s() - busy - self.cpu_s[-1]

    @property
    def is_quiet(self) -> bool:
        """Whether the machine was ours: others took less than a tenth of a core."""
        return self.others_s < 0.1 * sum(self.wall_s)

    def over(self, other: Side) -> Ratio:
        """Best round of this side over the best round of the other one.

        In wall time where the machine was ours. Where others ran on it, waiting for them says nothing about the engine;
        then CPU seconds decide, of which a saturated machine has a fixed number to give.
        """
        if self.is_quiet and other.is_quiet:
            return Ratio(min(self.wall_s) / min(other.wall_s), tolerance=0.0)
        return Ratio(min(self.cpu_s) / min(other.cpu_s), tolerance=0.1)

    def rate(self, rows: int) -> str:
        """Its best round, of so many rows, in words."""
        return f"{rows / min(self.wall_s):.0f} rows/s ({min(self.cpu_s) / rows * 1000:.3f} CPU ms a row)"


class Bare:
    """onnxruntime alone, with the session settings of the engine's backend."""

    def __init__(self, version: ModelVersion, backend: LoadedOnce | None = None) -> None:
        """Load a version, or share what an engine's backend has loaded."""
        self.version = version
        self.model: LoadedModel = (backend or OnnxRuntimeBackend()).load(version)
        self.outputs = [spec.name for spec in version.config.outputs]
        assert version.tokenizer is not None
        self.tokenizer = Tokenizer.from_file(version.tokenizer, 128)

    def batches(self, texts: Sequence[str], max_rows: int) -> list[dict[str, np.ndarray]]:
        """Tokenise, sort by length, cut, pad: everything before the clock starts."""
        rows = sorted((self.tokenizer.encode(text) for text in texts), key=len)
        made = []
        for start in range(0, len(rows), max_rows):
            part = rows[start : start + max_rows]
            longest = len(part[-1]) // ID_BYTES
            ids, mask = pad_rows(part, len(part), longest)
            made.append({"input_ids": ids, "attention_mask": mask})
        return made

    def run_here(self, batches: Sequence[dict[str, np.ndarray]]) -> None:
        """Run all batches on this thread."""
        for batch in batches:
            self.model.run(batch, self.outputs)

    def run(self, batches: Sequence[dict[str, np.ndarray]]) -> None:
        """Run all batches on as many threads as cores."""
        todo = iter(list(batches))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    batch = next(todo, None)
                if batch is None:
                    return
                self.model.run(batch, self.outputs)

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class LoadedOnce:
    """Hands every engine the same loaded model: where its weights lie in memory can be worth a millisecond a row."""

    def __init__(self) -> None:
        self._backend = OnnxRuntimeBackend()
        self._models: dict[Path, LoadedModel] = {}

    def load(self, version: ModelVersion) -> LoadedModel:
        if version.weights not in self._models:
            self._models[version.weights] = SharedModel(self._backend.load(version))
        return self._models[version.weights]


class SharedModel:
    """A loaded model that outlives the engines that run it: the first that stopped unloaded it for all."""

    def __init__(self, model: LoadedModel) -> None:
        self.run = model.run
        self.is_exact = model.is_exact
        self.preferred_slots = model.preferred_slots

    def unload(self) -> None:
        """Stay."""


class TimedModel:
    """A loaded model that notes how long its runs take: the session and nothing else."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self.last_run_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run(self, inputs: Tensors, outputs: Sequence[str], deadline_s: float = math.inf) -> Tensors:
        started_s = time.perf_counter()
        answer = self._model.run(inputs, outputs, deadline_s)
        self.last_run_s = time.perf_counter() - started_s
        return answer


class TimedBackend:
    """onnxruntime, its one model timed."""

    name = "onnxruntime"

    def __init__(self) -> None:
        self.model: TimedModel | None = None

    def load(self, version: ModelVersion) -> TimedModel:
        self.model = TimedModel(OnnxRuntimeBackend().load(version))
        return self.model


class Subject:
    """A started engine with the product's graph, its plans and tenants, on a loop of its own."""

    def __init__(self, backend: LoadedOnce | TimedBackend | None = None, **settings: object) -> None:
        self.loop = uvloop.new_event_loop()
        self.engine = Engine(
            ModelRepository.open(ROOT / "model_repo"),
            EngineSettings(memo_rows=0, **settings),  # type: ignore[arg-type]
            {"retrieve": lambda _, texts, rows: [None] * len(texts)},
            backends={"onnxruntime": backend} if backend else None,
        )
        self.loop.run_until_complete(self.engine.start())
        settle()
        self.graph = read_graph(ROOT / "graphs" / "guidance.yaml")
        self.plan = self.engine.compile(self.graph, None)

    def tenants(self, count: int, heads: int = 3, phrases: int = 3) -> list[PrototypeSet]:
        """Tenants with their own heads by example."""
        texts = list(itertools.islice(unique_texts(4711), count * heads * phrases))
        vectors = self.loop.run_until_complete(self.engine.embed(texts))
        made = []
        for tenant in range(count):
            first = tenant * heads * phrases
            by_label = {
                f"m{head}": texts[first + head * phrases : first + (head + 1) * phrases] for head in range(heads)
            }
            own = vectors[first : first + heads * phrases]
            made.append(make_prototypes(f"tenant{tenant}", by_label, dict.fromkeys(by_label, 0.5), own))
        return made

    def throughput(
        self, texts: Sequence[str], plans: Sequence[Plan] = (), tenants: Sequence[PrototypeSet | None] = (None,)
    ) -> None:
        """Answer all texts, `IN_FLIGHT` at a time."""
        plans = plans or (self.plan,)
        self.loop.run_until_complete(self._pump(texts, plans, tenants))

    async def _pump(self, texts: Sequence[str], plans: Sequence[Plan], tenants: Sequence[PrototypeSet | None]) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        rows = iter(enumerate(texts))
        left = len(texts)

        def submit(index: int, text: str) -> None:
            self.engine.submit(
                Request(
                    plan=plans[index % len(plans)],
                    inputs={"text": text, "speaker": "customer", "is_final": True},
                    owner=f"call{index % 50}",
                    key=str(index),
                    row_class=RowClass.FINAL,
                    prototypes=tenants[index % len(tenants)],
                    on_done=ended,
                )
            )

        def ended(*_: object) -> None:
            nonlocal left
            left -= 1
            if (row := next(rows, None)) is not None:
                submit(*row)
            elif not left:
                done.set_result(None)

        for index, text in itertools.islice(rows, IN_FLIGHT):
            submit(index, text)
        await done

    def answer(self, text: str, side: Side) -> None:
        """Answer one text, timed from submit to `on_done`."""
        self.loop.run_until_complete(self._answer(text, side))

    async def _answer(self, text: str, side: Side) -> None:
        done = asyncio.get_running_loop().create_future()
        inputs = {"text": text, "speaker": "customer", "is_final": True}
        with side.round():
            self.engine.submit(
                Request(
                    plan=self.plan,
                    inputs=inputs,
                    owner="call",
                    key=text,
                    on_done=lambda *_: done.set_result(None),
                )
            )
            await done

    def close(self) -> None:
        self.loop.run_until_complete(self.engine.stop())
        self.loop.close()


def of_length(tokenizer: Tokenizer, num_tokens: int, texts: Iterator[str], count: int) -> list[str]:
    """Texts cut or filled to one length in tokens, no two alike."""
    found: dict[bytes, str] = {}
    while len(found) < count:
        words = next(texts).split()
        while words and len(tokenizer.encode(" ".join(words))) // ID_BYTES > num_tokens:
            words.pop()
        while len(tokenizer.encode(" ".join(words))) // ID_BYTES < num_tokens:
            words.append(next(texts).split()[0])
        row = tokenizer.encode(" ".join(words))
        if len(row) // ID_BYTES == num_tokens:
            found[row] = " ".join(words)
    return list(found.values())


def percentiles(values: np.ndarray) -> str:
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return f"n {len(values)}  p50 {p50:.2f}  p95 {p95:.2f}  p99 {p99:.2f} ms"
