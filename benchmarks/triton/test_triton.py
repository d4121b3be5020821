"""A Triton on the same machine against the backend in process: one row, and as many as go.

    pytest benchmarks/triton -s

The two share the cores, so the figures say what the way there and back costs, not what a machine with a GPU gives. The
server is Triton 2.51 with the Python backend, which adds a hand-over between two processes that the onnxruntime backend
does not have.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from inference.backends.onnxruntime import OnnxRuntimeBackend
from inference.backends.triton_repository import derive_repository
from inference.repository import ModelRepository, ModelVersion
from tests.integration.triton import TritonMissing, TritonServer

triton = pytest.importorskip("inference.backends.triton", reason="needs `make triton`")
pytestmark = pytest.mark.triton

MODEL_REPOSITORY = Path(__file__).resolve().parents[2] / "model_repo"
OUTPUTS = ("embedding", "intent_logits", "sentiment_logits", "acts_logits")
NUM_CALLS = 400
TOKENS = 12


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TritonServer]:
    derive_repository(MODEL_REPOSITORY, tmp_path / "models")
    try:
        running = TritonServer(tmp_path / "models", tmp_path)
    except TritonMissing as missing:
        pytest.skip(str(missing))
    running.start()
    yield running
    running.stop()


def rows(count: int) -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(1000, 20_000, (count, TOKENS)).astype(np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def timed(call: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def rate(call: Callable[[], object], threads: int, num_calls: int) -> float:
    """Return calls a second of so many callers."""
    with ThreadPoolExecutor(threads) as pool:
        started_s = time.perf_counter()
        list(pool.map(lambda _: call(), range(num_calls)))
        return num_calls / (time.perf_counter() - started_s)


class AioModel:
    """The same call by the asyncio client on a loop of its own, as a worker thread would wait for it."""

    def __init__(self, url: str, version: ModelVersion) -> None:
        from tritonclient.grpc import aio

        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever)
        self._thread.start()
        self._version = version

        async def connect() -> Any:
            return aio.InferenceServerClient(url)

        self._client = self._wait(connect())

    def run(self, inputs: dict[str, Any], outputs: tuple[str, ...]) -> dict[str, Any]:
        from tritonclient.grpc import InferInput, InferRequestedOutput

        feeds = [InferInput(name, a.shape, "INT32").set_data_from_numpy(a) for name, a in inputs.items()]
        wanted = [InferRequestedOutput(name) for name in outputs]
        answer = self._wait(
            self._client.infer(self._version.name, feeds, str(self._version.version), wanted, client_timeout=5.0)
        )
        return {name: np.array(answer.as_numpy(name)) for name in outputs}

    def unload(self) -> None:
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def test_the_way_to_triton(server: TritonServer) -> None:
    version = ModelRepository.open(MODEL_REPOSITORY).model("utterance").latest
    subjects = {
        "in process": (OnnxRuntimeBackend().load(version), 2),
        "triton": (triton.TritonBackend(server.url).load(version), triton.SLOTS),
        "triton, aio client": (AioModel(server.url, version), triton.SLOTS),
    }
    one, sixteen = rows(1), rows(16)
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    try:
        for model, _ in subjects.values():
            for _ in range(20):
                model.run(one, OUTPUTS)
        for _ in range(NUM_CALLS):  # in turns, so that a busy machine slows all alike
            for name, (model, _) in subjects.items():
                taken[name].append(timed(lambda model=model: model.run(one, OUTPUTS)))
        print(f"\n{NUM_CALLS} calls of one row of {TOKENS} tokens, {len(OUTPUTS)} outputs; then as many side by side")
        print(f"{'':20}{'min ms':>8}{'p50 ms':>8}{'p99 ms':>8}{'1-row calls/s':>16}{'rows/s by 16':>14}")
        for name, (model, threads) in subjects.items():
            low, p50, p99 = np.percentile(np.array(taken[name]) * 1e3, [0, 50, 99])
            singles = rate(lambda model=model: model.run(one, OUTPUTS), threads, NUM_CALLS)
            sixteens = 16 * rate(lambda model=model: model.run(sixteen, OUTPUTS), threads, NUM_CALLS // 8)
            print(f"{name:20}{low:8.2f}{p50:8.2f}{p99:8.2f}{singles:16.0f}{sixteens:14.0f}")
    finally:
        for model, _ in subjects.values():
            model.unload()
