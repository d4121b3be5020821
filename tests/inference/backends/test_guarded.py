from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from inference.backends.breaker import BreakerSettings
from inference.backends.contract import HasStatus, LoadedModel, Tensors
from inference.backends.fake import FakeBackend
from inference.backends.guarded import GuardedBackend
from inference.errors import BackendUnavailable, DeadlineExceeded, ModelError, ModelFailed
from inference.repository import ModelRepository, ModelVersion
from tests.inference.manual_clock import Clock
from tests.inference.model_folders import write_model

INPUTS = {name: np.ones((1, 8), np.int32) for name in ("input_ids", "attention_mask")}
Behave = Callable[[float], None]


@dataclass
class Remote:
    """A machine that does as told: `behave` gets each deadline and may raise; `refuse` is what a check raises."""

    name: str = "remote"
    behave: Behave = lambda _: None
    refuse: Exception | None = None
    num_runs: int = 0
    num_checks: int = 0
    fake: FakeBackend = field(default_factory=FakeBackend)
    is_exact: bool = True
    preferred_slots: int = 8
    is_open: bool = True

    def open(self, version: ModelVersion) -> Remote:
        self._model = self.fake.load(version)
        return self

    def check(self, timeout_s: float) -> None:
        assert timeout_s > 0.0
        self.num_checks += 1
        if self.refuse is not None:
            raise self.refuse

    def run(self, inputs: Tensors, outputs: tuple[str, ...], deadline_s: float = math.inf) -> Tensors:
        self.num_runs += 1
        self.behave(deadline_s)
        return self._model.run(inputs, outputs)

    def unload(self) -> None:
        self.is_open = False


@pytest.fixture
def version(tmp_path: Path) -> ModelVersion:
    write_model(tmp_path)
    return ModelRepository.open(tmp_path).model("utterance").latest


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def loaded(remote: Remote, fallback: FakeBackend | None, version: ModelVersion, clock: Clock) -> Iterator[LoadedModel]:
    settings = BreakerSettings(open_s=5.0)
    model = GuardedBackend(remote, fallback, breaker=settings, timeout_s=1.0, clock=clock).load(version)
    remote.num_runs = remote.num_checks = 0
    if fallback is not None:
        fallback.runs.clear()
    yield model
    model.unload()
    assert not remote.is_open


def state(model: LoadedModel) -> str:
    assert isinstance(model, HasStatus)
    return model.status().state


def gone(_: float) -> None:
    raise BackendUnavailable("nobody there")


def hang(clock: Clock) -> Behave:
    def until(deadline_s: float) -> None:
        clock.now_s = deadline_s
        raise DeadlineExceeded("time is up")

    return until


def test_the_machine_serves(version: ModelVersion, clock: Clock) -> None:
    fallback = FakeBackend()
    with loaded(Remote(), fallback, version, clock) as model:
        assert model.run(INPUTS, ("embedding",))["embedding"].shape == (1, 4)
        assert not fallback.runs
        assert state(model) == "closed"


def test_no_batch_is_lost_when_the_machine_is(version: ModelVersion, clock: Clock) -> None:
    remote, fallback = Remote(), FakeBackend()
    with loaded(remote, fallback, version, clock) as model:
        remote.behave = gone
        for _ in range(20):
            assert "embedding" in model.run(INPUTS, ("embedding",), clock.now_s + 5.0)
        assert remote.num_runs == 3, "it was asked after it was given up"
        assert isinstance(model, HasStatus)
        status = model.status()
        assert (status.state, status.reason, status.num_fallback) == ("open", "nobody there", 20)


def test_without_a_fallback_rows_fail_typed_and_at_once(version: ModelVersion, clock: Clock) -> None:
    remote = Remote()
    with loaded(remote, None, version, clock) as model:
        remote.behave = gone
        for _ in range(10):
            with pytest.raises(BackendUnavailable):
                model.run(INPUTS, ("embedding",), clock.now_s + 5.0)
        assert remote.num_runs == 3


def test_a_batch_that_met_no_one_is_sent_once_more(version: ModelVersion, clock: Clock) -> None:
    remote = Remote()

    def once(_: float) -> None:
        if remote.num_runs == 1:
            gone(0.0)

    with loaded(remote, None, version, clock) as model:
        remote.behave = once
        assert "embedding" in model.run(INPUTS, ("embedding",), 5.0)
        assert remote.num_runs == 2


def test_a_hanging_machine_leaves_time_for_the_fallback(version: ModelVersion, clock: Clock) -> None:
    remote, fallback = Remote(), FakeBackend()
    with loaded(remote, fallback, version, clock) as model:
        remote.behave = hang(clock)
        model.run(INPUTS, ("embedding",), 1.0)
        assert clock.now_s == pytest.approx(0.6)
        model.run(INPUTS, ("embedding",), 100.0)
        assert clock.now_s == pytest.approx(1.6), "no attempt may take longer than the time-out"
        model.run(INPUTS, ("embedding",))
        assert state(model) == "open"
        assert len(fallback.runs) == 3


def test_batches_with_no_time_do_not_condemn_the_machine(version: ModelVersion, clock: Clock) -> None:
    remote = Remote()
    with loaded(remote, None, version, clock) as model:
        remote.behave = hang(clock)
        for _ in range(10):
            with pytest.raises(DeadlineExceeded):
                model.run(INPUTS, ("embedding",), clock.now_s + 0.01)
        assert state(model) == "closed"


def test_time_that_is_up_is_told_from_a_machine_that_hangs(version: ModelVersion, clock: Clock) -> None:
    remote = Remote()
    with loaded(remote, None, version, clock) as model:
        remote.behave = hang(clock)
        with pytest.raises(DeadlineExceeded):
            model.run(INPUTS, ("embedding",), clock.now_s + 0.5)
        with pytest.raises(BackendUnavailable, match=r"no answer within 1\.000 s"):
            model.run(INPUTS, ("embedding",), clock.now_s + 5.0)


def test_a_batch_that_both_refuse_is_to_blame_itself(version: ModelVersion, clock: Clock) -> None:
    def refuse(_: object) -> None:
        raise ModelFailed("poison")

    remote, fallback = Remote(), FakeBackend()
    with loaded(remote, fallback, version, clock) as model:
        remote.behave, fallback.script = refuse, refuse
        for _ in range(100):
            with pytest.raises(ModelFailed):
                model.run(INPUTS, ("embedding",))
        assert state(model) == "closed"


def test_a_machine_that_refuses_what_the_fallback_takes_is_ill(version: ModelVersion, clock: Clock) -> None:
    def refuse(_: object) -> None:
        raise ModelFailed("internal")

    remote, fallback = Remote(), FakeBackend()
    with loaded(remote, fallback, version, clock) as model:
        remote.behave = refuse
        for _ in range(60):
            model.run(INPUTS, ("embedding",))
        assert state(model) == "open"


def test_a_returned_machine_is_checked_before_it_is_tried(version: ModelVersion, clock: Clock) -> None:
    remote, fallback = Remote(), FakeBackend()
    with loaded(remote, fallback, version, clock) as model:
        remote.behave = gone
        for _ in range(3):
            model.run(INPUTS, ("embedding",))
        remote.behave, remote.refuse = lambda _: None, ModelError("other tensors", path="remote")
        clock.now_s += 5.0
        before = remote.num_runs
        model.run(INPUTS, ("embedding",))
        assert (remote.num_checks, remote.num_runs) == (1, before)
        assert isinstance(model, HasStatus)
        assert (model.status().state, model.status().reason) == ("open", "remote: other tensors")
        remote.refuse = None
        clock.now_s += 10.0
        for _ in range(3):
            model.run(INPUTS, ("embedding",))
            clock.now_s += 1.0
        assert state(model) == "closed"
        assert remote.num_runs == before + 3
        assert remote.num_checks == 2


def test_a_machine_that_is_not_there_at_the_start(version: ModelVersion, clock: Clock) -> None:
    absent = BackendUnavailable("nobody there")
    remote = Remote(refuse=absent)
    with loaded(remote, FakeBackend(), version, clock) as model:
        assert state(model) == "open"
        assert "embedding" in model.run(INPUTS, ("embedding",))
    with pytest.raises(ModelError, match="nobody there, and nothing stands in"):
        GuardedBackend(Remote(refuse=absent), clock=clock).load(version)


def test_the_wrong_model_refuses_the_start_even_with_a_fallback(version: ModelVersion, clock: Clock) -> None:
    remote = Remote(refuse=ModelError("other tensors", path="remote"))
    with pytest.raises(ModelError, match="other tensors"):
        GuardedBackend(remote, FakeBackend(), clock=clock).load(version)
    assert not remote.is_open
