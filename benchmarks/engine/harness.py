"""The engine and bare onnxruntime on the same rows in the same run.

Bare onnxruntime is what nothing can beat here: the rows are tokenised before the clock starts, sorted by length as a
whole, cut into perfect batches, and two threads run them without a word of Python in between. Nobody reads the outputs.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.texts import unique_texts
from inference.backends.contract import LoadedModel
from inference.backends.onnxruntime import OnnxRuntimeBackend
from inference.engine import Engine, EngineSettings
from inference.graph import read_graph
from inference.plan import Plan
from inference.prototypes import make_prototypes
from inference.repository import ModelRepository, ModelVersion
from inference.request import PrototypeSet, Request, RowClass
from inference.tokens import ID_BYTES, TokenBuffer, Tokenizer

ROOT = Path(__file__).parents[2]
THREADS = len(os.sched_getaffinity(0))
IN_FLIGHT = 256
"""Requests under way in a throughput run: 16 full batches, a quarter of the queue."""


def shipped_version() -> ModelVersion:
    """The encoder that ships, or a skip where it is not built."""
    repository = ModelRepository.open(ROOT / "model_repo")
    model = repository.models.get("utterance")
    if model is None or not model.versions:
        pytest.skip("model_repo/utterance is not built; `make models` builds it")
    return model.latest


class Bare:
    """onnxruntime alone, with the session settings of the engine's backend."""

    def __init__(self, version: ModelVersion) -> None:
        self.version = version
        self.model: LoadedModel = OnnxRuntimeBackend().load(version)
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
            ids, mask = TokenBuffer(len(part) * longest, np.int32).fill(part, len(part), longest)
            made.append({"input_ids": ids, "attention_mask": mask})
        return made

    def run(self, batches: Sequence[dict[str, np.ndarray]]) -> float:
        """Run all batches on as many threads as cores; return seconds."""
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
        started_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started_s


class Subject:
    """A started engine with the product's graph, its plans and tenants, on a loop of its own."""

    def __init__(self, **settings: object) -> None:
        self.loop = asyncio.new_event_loop()
        self.engine = Engine(
            ModelRepository.open(ROOT / "model_repo"),
            EngineSettings(memo_rows=0, **settings),  # type: ignore[arg-type]
            {"retrieve": lambda _, texts, rows: [None] * len(texts)},
        )
        self.loop.run_until_complete(self.engine.start())
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
    ) -> float:
        """Answer all texts, `IN_FLIGHT` at a time; return seconds."""
        plans = plans or (self.plan,)
        return self.loop.run_until_complete(self._pump(texts, plans, tenants))

    async def _pump(self, texts: Sequence[str], plans: Sequence[Plan], tenants: Sequence[PrototypeSet | None]) -> float:
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

        started_s = time.perf_counter()
        for index, text in itertools.islice(rows, IN_FLIGHT):
            submit(index, text)
        await done
        return time.perf_counter() - started_s

    def lone_ms(self, texts: Sequence[str]) -> np.ndarray:
        """Answer texts one by one; return the milliseconds of each, from submit to `on_done`."""

        async def run() -> list[float]:
            loop = asyncio.get_running_loop()
            took = []
            for index, text in enumerate(texts):
                done = loop.create_future()
                started_s = time.perf_counter()
                self.engine.submit(
                    Request(
                        plan=self.plan,
                        inputs={"text": text, "speaker": "customer", "is_final": True},
                        owner="call",
                        key=str(index),
                        on_done=lambda *_, done=done: done.set_result(time.perf_counter()),  # type: ignore[misc]
                    )
                )
                took.append((await done - started_s) * 1000.0)
            return took

        return np.array(self.loop.run_until_complete(run()))

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
