"""Against a real tritonserver. One server for all tests; those that hurt it leave it whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from inference.backends.breaker import BreakerSettings
from inference.backends.contract import blank_inputs
from inference.backends.guarded import GuardedBackend
from inference.backends.onnxruntime import OnnxRuntimeBackend
from inference.backends.triton_repository import derive_repository
from inference.engine import Engine, EngineSettings
from inference.errors import BackendUnavailable, DeadlineExceeded, ModelError
from inference.graph import Graph, Node
from inference.observer import EngineStats
from inference.plan import Bucket
from inference.repository import ModelRepository, ModelVersion
from inference.request import RowClass
from tests.inference.model_folders import write_model
from tests.inference.tiny_models import write_encoder
from tests.integration.triton import TritonMissing, TritonServer

triton = pytest.importorskip("inference.backends.triton", reason="needs requirements/triton.lock; `make triton`")
pytestmark = [pytest.mark.triton, pytest.mark.slow]

MODEL_REPOSITORY = Path(__file__).resolve().parents[3] / "model_repo"
TOLERANCE = 1e-4
"""Largest difference of a float32 output between the two backends, with the same weights file."""

BREAKER = BreakerSettings(open_s=0.2, trial_interval_s=0.05)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder, for tests of behaviour."""
    folder = tmp_path_factory.mktemp("ours")
    write_encoder(folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    derived = tmp_path_factory.mktemp("derived")
    derive_repository(repository, derived)
    derive_repository(MODEL_REPOSITORY, derived)
    try:
        running = TritonServer(derived, tmp_path_factory.mktemp("log"))
    except TritonMissing as missing:
        pytest.skip(str(missing))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def tiny(repository: Path) -> ModelVersion:
    return ModelRepository.open(repository).model("tiny").latest


@pytest.mark.parametrize("name", ["utterance", "tiny"])
def test_both_backends_give_the_same_numbers(server: TritonServer, repository: Path, name: str) -> None:
    folder = MODEL_REPOSITORY if name == "utterance" else repository
    version = ModelRepository.open(folder).model(name).latest
    there, here = triton.TritonBackend(server.url).load(version), OnnxRuntimeBackend().load(version)
    outputs = [spec.name for spec in version.config.outputs]
    rng = np.random.default_rng(7)
    most_ids = 30 if name == "tiny" else 20_000
    try:
        for rows, tokens in [(1, 5), (1, 12), (4, 9), (8, 31), (2, 100)]:
            lengths = rng.integers(1, tokens + 1, rows)
            mask = (np.arange(tokens) < lengths[:, None]).astype(np.int32)
            ids = rng.integers(5, most_ids, (rows, tokens)).astype(np.int32) * mask
            inputs = {"input_ids": ids, "attention_mask": mask}
            expected, given = here.run(inputs, outputs), there.run(inputs, outputs)
            for output in outputs:
                assert given[output].dtype == expected[output].dtype
                np.testing.assert_allclose(given[output], expected[output], rtol=0, atol=TOLERANCE, err_msg=output)
    finally:
        there.unload()
        here.unload()


def test_only_what_is_asked_for_comes_and_can_be_written_to(server: TritonServer, tiny: ModelVersion) -> None:
    model = triton.TritonBackend(server.url).load(tiny)
    arrays = model.run(blank_inputs(tiny.config, Bucket(2, 8)), ("intent_logits",))
    assert list(arrays) == ["intent_logits"]
    assert arrays["intent_logits"].shape == (2, 3)
    assert arrays["intent_logits"].flags.writeable
    model.unload()


def test_batches_sent_side_by_side_are_put_together_and_kept_apart(server: TritonServer, tiny: ModelVersion) -> None:
    model = triton.TritonBackend(server.url).load(tiny)
    before = model.statistics()
    inputs = [blank_inputs(tiny.config, Bucket(1, 8)) for _ in range(40)]
    for number, feeds in enumerate(inputs):
        feeds["input_ids"][:] = number % 20 + 5

    async def send() -> list[np.ndarray]:
        runs = [asyncio.to_thread(model.run, feeds, ("intent_logits",)) for feeds in inputs]
        return [arrays["intent_logits"] for arrays in await asyncio.gather(*runs)]

    together = asyncio.run(send())
    for number, feeds in enumerate(inputs):
        np.testing.assert_allclose(together[number], model.run(feeds, ("intent_logits",))["intent_logits"], atol=1e-6)
    after = model.statistics()
    assert after.num_rows - before.num_rows == 80
    assert 0 < after.num_executions - before.num_executions <= 80
    assert after.num_failed == before.num_failed
    assert after.compute_s > 0.0
    model.unload()


def test_another_model_than_promised_is_refused(server: TritonServer, tmp_path: Path) -> None:
    write_model(tmp_path, "tiny", dims=6)
    other = ModelRepository.open(tmp_path).model("tiny").latest
    with pytest.raises(ModelError, match=r"output embedding: expected FP32\[6\], given FP32\[4\]"):
        triton.TritonBackend(server.url).load(other)


def test_a_version_that_is_not_there_is_unavailable(server: TritonServer, tmp_path: Path) -> None:
    write_encoder(tmp_path, "tiny", versions=(9,))
    other = ModelRepository.open(tmp_path).model("tiny").latest
    with pytest.raises(BackendUnavailable):
        triton.TritonBackend(server.url).load(other)


def test_time_that_is_up_ends_the_call(server: TritonServer, tiny: ModelVersion) -> None:
    model = triton.TritonBackend(server.url).load(tiny)
    inputs = blank_inputs(tiny.config, Bucket(1, 8))
    server.pause()
    try:
        started_s = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            model.run(inputs, ("embedding",), started_s + 0.2)
        assert 0.19 <= time.monotonic() - started_s < 2.0
        with pytest.raises(DeadlineExceeded):
            model.run(inputs, ("embedding",), started_s)
    finally:
        server.resume()
    assert "embedding" in model.run(inputs, ("embedding",), time.monotonic() + 10.0)
    model.unload()


# -- faults, seen from the engine ------------------------------------------------------------------------------------


@asynccontextmanager
async def engine_on(server: TritonServer, repository: Path, *, has_fallback: bool = True) -> AsyncIterator[Engine]:
    fallback = OnnxRuntimeBackend() if has_fallback else None
    remote = triton.TritonBackend(server.url)
    guarded = GuardedBackend(remote, fallback, breaker=BREAKER, timeout_s=1.0)
    models = ModelRepository.open(repository)
    engine = Engine(models, EngineSettings(memo_rows=0), backends={guarded.name: guarded})
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


class Traffic:
    """Rows sent one after another from several callers, until told to stop; every answer is looked at."""

    def __init__(self, engine: Engine) -> None:
        nodes = {
            "tokens": Node(op="tokenize", model="tiny", inputs=("text",)),
            "encoder": Node(op="model", model="tiny", inputs=("tokens",)),
            "embedding": Node(op="select", inputs=("encoder.embedding",)),
        }
        self._engine = engine
        self._plan = engine.compile(Graph("embed", {"text": "string"}, nodes, ("embedding",)), None)
        self._is_over = False
        self.answered = 0
        self.errors: list[Exception] = []

    async def one(self) -> None:
        deadline_s = time.monotonic() + 5.0
        try:
            outputs = await self._engine.run(
                self._plan, {"text": "my card is lost"}, row_class=RowClass.FINAL, deadline_s=deadline_s
            )
            assert np.linalg.norm(outputs["embedding"].value) == pytest.approx(1.0, abs=1e-4)
            self.answered += 1
        except BackendUnavailable as error:
            self.errors.append(error)

    async def until(self, what: str, is_so: object) -> None:
        """Send rows until something holds."""
        assert callable(is_so)
        async with asyncio.timeout(20.0):
            while not is_so():
                await asyncio.gather(*(self.one() for _ in range(4)))


def state(stats: EngineStats) -> str:
    return stats.backends["tiny/1"].state


async def test_killed_in_mid_traffic_nothing_is_lost_and_it_serves_again(
    server: TritonServer, repository: Path
) -> None:
    async with engine_on(server, repository) as engine:
        traffic = Traffic(engine)
        await traffic.until("it serves", lambda: traffic.answered >= 20)
        assert engine.stats().backends["tiny/1"].num_fallback == 0
        under_way = [asyncio.create_task(traffic.one()) for _ in range(32)]
        await asyncio.to_thread(server.kill)
        await asyncio.gather(*under_way)
        await traffic.until("the breaker opens", lambda: state(engine.stats()) != "closed")
        fallen_back = engine.stats().backends["tiny/1"].num_fallback
        assert fallen_back > 0
        assert engine.stats().backends["tiny/1"].reason
        await asyncio.to_thread(server.start)
        served = engine.stats().backends["tiny/1"].num_served
        await traffic.until("the breaker closes", lambda: state(engine.stats()) == "closed")
        assert engine.stats().backends["tiny/1"].num_served >= served + BREAKER.num_trials
        assert not traffic.errors, "a row was lost"


async def test_a_dead_model_process_opens_the_breaker_too(
    server: TritonServer, repository: Path, tiny: ModelVersion
) -> None:
    async with engine_on(server, repository) as engine:
        traffic = Traffic(engine)
        server.kill_stubs()
        await traffic.until("the breaker opens", lambda: state(engine.stats()) == "open")
        assert not traffic.errors, "a row was lost"
    # The first calls hang until Triton notices; then each is answered with an error that blames no batch.
    model = triton.TritonBackend(server.url).open(tiny)
    inputs = blank_inputs(tiny.config, Bucket(1, 8))
    with pytest.raises(BackendUnavailable, match="INTERNAL"):
        await asyncio.to_thread(model.run, inputs, ("embedding",), time.monotonic() + 20.0)
    model.unload()
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)


async def test_a_hanging_server_costs_no_row(server: TritonServer, repository: Path) -> None:
    async with engine_on(server, repository) as engine:
        traffic = Traffic(engine)
        server.pause()
        try:
            await traffic.until("the breaker opens", lambda: state(engine.stats()) == "open")
        finally:
            server.resume()
        assert not traffic.errors, "a row was lost"
        await traffic.until("the breaker closes", lambda: state(engine.stats()) == "closed")


async def test_without_a_fallback_rows_fail_typed(server: TritonServer, repository: Path) -> None:
    async with engine_on(server, repository, has_fallback=False) as engine:
        traffic = Traffic(engine)
        await asyncio.to_thread(server.kill)
        await traffic.until("rows fail", lambda: len(traffic.errors) >= 12)
        assert state(engine.stats()) == "open"
        await asyncio.to_thread(server.start)
        answered = traffic.answered
        await traffic.until("rows are answered", lambda: traffic.answered >= answered + 20)


async def test_a_start_without_triton(server: TritonServer, repository: Path) -> None:
    await asyncio.to_thread(server.kill)
    try:
        with pytest.raises(ModelError, match="nothing stands in"):
            async with engine_on(server, repository, has_fallback=False):
                pass
        async with engine_on(server, repository) as engine:
            traffic = Traffic(engine)
            await traffic.one()
            assert traffic.answered == 1
            assert state(engine.stats()) == "open"
    finally:
        await asyncio.to_thread(server.start)
