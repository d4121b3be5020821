"""Versions on trial, and versions that go back by themselves."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from inference.backends.onnxruntime import OnnxRuntimeBackend
from inference.errors import InferenceError, OverloadedError
from inference.life.file import read_records
from tests.inference.life.backends import Crashing, Slow
from tests.inference.life.folders import drop_version
from tests.inference.life.running import PinsNothing, running

# -- trials ------------------------------------------------------------------------------------------------------------


async def test_a_canary_answers_its_share_of_the_calls_and_always_the_same_ones(repository: Path) -> None:
    async with running(repository, rollout="canary", canary_ratio=0.3) as it:
        drop_version(repository, 2)
        await it.events.saw("canaried")
        calls = [f"call-{i}" for i in range(200)]
        first = [await it.ask(owner=call) for call in calls]
        assert first == [await it.ask("thank you", owner=call) for call in calls]
        assert 0.2 < first.count(2) / len(calls) < 0.4
        await it.keeper.promote("utterance", 2, stage="canary", ratio=0.6)
        more = [await it.ask(owner=call) for call in calls]
        assert all(after == 2 for before, after in zip(first, more, strict=True) if before == 2)
        assert more.count(2) > first.count(2)
        await it.keeper.promote("utterance", 2)
        assert {await it.ask(owner=call) for call in calls} == {2}


async def test_a_shadow_is_compared_and_shown_to_nobody(repository: Path) -> None:
    async with running(repository, rollout="shadow", shadow_ratio=0.5) as it:
        drop_version(repository, 2, seed=1)  # the same weights, so it agrees
        await it.events.saw("shadowed")
        for _ in range(20):
            assert await it.ask() == 1
        await it.events.until(lambda: it.events.results["agreed"] == 30)
        status = it.version(2)
        assert {name: (a.rows, a.agreed_ratio) for name, a in status.agreement.items()} == {
            "intent": (10, 1.0),
            "sentiment": (10, 1.0),
            "question": (10, 1.0),
        }
        assert it.engine.stats().submitted == 20  # copies are nobody's requests
        await it.keeper.promote("utterance", 2)
        assert await it.ask() == 2


async def test_a_pinned_version_answers_only_those_that_pin_it_and_stays_while_they_do(repository: Path) -> None:
    class Policy:
        def __init__(self) -> None:
            self.lanes = frozenset({("utterance", 1)})
            self.prepared: list[int] = []

        async def prepare(self, model: str, version: int) -> None:
            self.prepared.append(version)

        def pins(self) -> frozenset[tuple[str, int]]:
            return self.lanes

    async with running(repository, probation_s=0.0) as it:
        policy = Policy()
        it.keeper.add_consumer(policy)
        drop_version(repository, 2)
        await it.events.saw("promoted")
        assert policy.prepared == [2]
        assert await it.ask(pins={"utterance": 1}) == 1
        assert await it.ask() == 2
        drop_version(repository, 3)
        await it.events.saw("unloaded")
        assert it.engine.versions("utterance") == (3, 1)
        assert it.version(1).state == "standby"
        assert it.version(1).pinned
        policy.lanes = frozenset()
        await it.events.saw("unloaded", 2)
        await it.keeper.hold("utterance", 2)
        assert 2 in it.engine.versions("utterance")


async def test_a_version_that_a_consumer_cannot_use_is_refused(repository: Path) -> None:
    class Picky(PinsNothing):
        async def prepare(self, model: str, version: int) -> None:
            raise InferenceError("its vectors mean nothing")

    async with running(repository) as it:
        it.keeper.add_consumer(Picky())
        drop_version(repository, 2)
        await it.events.saw("refused")
        assert it.version(2).reason == "utterance/2: its vectors mean nothing"
        assert it.engine.versions("utterance") == (1,)


async def test_what_it_was_asked_in_preparation_does_not_count_for_a_version(repository: Path) -> None:
    class Thorough(PinsNothing):
        async def prepare(self, model: str, version: int) -> None:
            assert len(await it.engine.embed(["my card is lost", "thank you"], version)) == 2

    async with running(repository) as it:
        it.keeper.add_consumer(Thorough())
        drop_version(repository, 2)
        await it.events.saw("promoted")
        assert it.version(2).rows == 0
        assert await it.ask() == 2
        assert it.version(2).rows == 1


async def test_a_version_that_comes_while_there_is_too_much_to_do_waits(repository: Path) -> None:
    class Busy(PinsNothing):
        attempts = 0

        async def prepare(self, model: str, version: int) -> None:
            self.attempts += 1
            if self.attempts < 3:
                raise OverloadedError("queue full")

    async with running(repository) as it:
        busy = Busy()
        it.keeper.add_consumer(busy)
        drop_version(repository, 2)
        await it.events.saw("promoted")
        assert busy.attempts == 3
        assert it.events.changes == ["loaded", "promoted"]


# -- going back by itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rollout", ["direct", "canary"])
async def test_a_version_that_fails_in_service_costs_no_row_and_goes_back_by_itself(
    repository: Path, rollout: str
) -> None:
    backend = Crashing()
    async with running(repository, backends={"onnxruntime": backend}, rollout=rollout, canary_ratio=0.5) as it:
        drop_version(repository, 2)
        await it.events.saw("promoted" if rollout == "direct" else "canaried")
        backend.is_broken = True
        answers = await asyncio.gather(*(it.ask(owner=f"call-{i}") for i in range(40)))
        assert set(answers) == {1}
        await it.events.saw("rolled_back")
        assert it.version(1).state == "serving"
        assert it.version(2).state == "rolled_back"
        assert "rows failed one after another" in it.version(2).reason
        assert await it.ask() == 1
        await it.events.saw("unloaded")
    assert read_records(repository.parent / "models.json")["utterance"].serving == 1


async def test_a_shadow_that_fails_is_given_up(repository: Path) -> None:
    backend = Crashing()
    async with running(repository, backends={"onnxruntime": backend}, rollout="shadow", shadow_ratio=1.0) as it:
        drop_version(repository, 2)
        await it.events.saw("shadowed")
        backend.is_broken = True
        for _ in range(6):
            assert await it.ask() == 1
        await it.events.saw("rolled_back")
        assert it.version(2).state == "rolled_back"


async def test_a_poisonous_row_is_not_blamed_on_the_version(repository: Path) -> None:
    class Allergic(OnnxRuntimeBackend):
        def load(self, version: Any) -> Any:
            model = super().load(version)
            run = model.run

            def run_or_raise(inputs: Any, *arguments: Any) -> Any:
                if is_live and inputs["input_ids"].shape[1] == 4:
                    raise RuntimeError("poison")
                return run(inputs, *arguments)

            model.run = run_or_raise  # type: ignore[method-assign]
            return model

    is_live = False
    async with running(repository, backends={"onnxruntime": Allergic()}) as it:
        drop_version(repository, 2)
        await it.events.saw("promoted")
        is_live = True
        for _ in range(8):
            with pytest.raises(InferenceError):
                await it.ask("thank you")
            assert await it.ask() == 2
        assert it.version(2).failed == 0
        assert "rolled_back" not in it.events.changes


async def test_probation_goes_on_while_the_version_before_has_to_answer_for_the_new_one(repository: Path) -> None:
    now_s = 0.0
    backend = Crashing()
    async with running(
        repository, backends={"onnxruntime": backend}, poll_s=3600.0, probation_s=10.0, clock=lambda: now_s
    ) as it:
        drop_version(repository, 2)
        await it.keeper.promote("utterance", 2)
        backend.is_broken = True
        for at_s in (9.0, 11.0, 60.0):  # the failure before is less than a minute ago
            now_s = at_s
            it.keeper._judge("utterance")
            backend.is_broken = True
            assert await it.ask() == 1, "few failures are no reason to go back, nor to leave rows without an answer"
            backend.is_broken = False
            assert await it.ask() == 2
        now_s += 100.0
        it.keeper._judge("utterance")
        (model,) = it.keeper.status()
        assert model.probation_s == 0.0
        assert await it.ask() == 2


async def test_probation_goes_on_after_a_restart(repository: Path) -> None:
    backend = Crashing()
    wall_s = 1000.0
    async with running(repository, probation_s=60.0, wall_s=lambda: wall_s) as it:
        drop_version(repository, 2)
        await it.events.saw("promoted")
    wall_s = 1059.0
    async with running(repository, backends={"onnxruntime": backend}, wall_s=lambda: wall_s) as it:
        await it.events.saw("loaded")
        assert (it.version(2).state, it.version(1).state) == ("serving", "standby")
        backend.is_broken = True
        assert {await it.ask() for _ in range(5)} == {1}
        await it.events.saw("rolled_back")
        backend.is_broken = False
        await it.keeper.promote("utterance", 2)
    wall_s = 2000.0
    async with running(repository, wall_s=lambda: wall_s) as it:
        (model,) = it.keeper.status()
        assert (model.serving, model.previous, model.probation_s) == (2, 1, 0.0)
        assert it.engine.versions("utterance") == (2,)


async def test_where_the_version_before_is_gone_after_a_restart_the_new_one_stays(repository: Path) -> None:
    async with running(repository) as it:
        drop_version(repository, 2)
        await it.events.saw("promoted")
    shutil.rmtree(repository / "utterance" / "1")
    async with running(repository) as it:
        await it.keeper._bring_back("utterance", 1)
        it.keeper._judge("utterance")
        assert await it.ask() == 2
        assert it.events.changes == []


@pytest.mark.parametrize("is_slow", [True, False])
async def test_a_version_that_becomes_slow_goes_back_and_one_on_a_slow_machine_stays(
    repository: Path, is_slow: bool
) -> None:
    backend = Slow()
    backend.is_slow = False
    async with running(
        repository, backends={"onnxruntime": backend}, max_latency_ratio=20.0, min_rows=10, poll_s=3600.0
    ) as it:
        drop_version(repository, 2)
        await it.keeper.promote("utterance", 2)
        await it.keeper._look()
        cost, now_s = it.engine.service("utterance", 1).cost, it.keeper._clock()
        it.engine.health.batch(("utterance", 2), 10, 10 * 16, cost.predict_s(160), now_s)
        it.keeper._judge("utterance")
        assert not it.keeper._weigh_at, "as fast as before"
        backend.is_slow = is_slow
        it.engine.health.batch(("utterance", 2), 10, 10 * 16, 100 * cost.predict_s(160), now_s)
        it.keeper._judge("utterance")
        assert it.version(2).state == "serving", "the machine may be slow, so both are timed first"
        (weighing,) = [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "_weigh"]
        await weighing
        assert it.version(2).state == ("rolled_back" if is_slow else "serving")
        if is_slow:
            assert "allowed is 20 times" in it.version(2).reason
        assert await it.ask() == (1 if is_slow else 2)
        it.keeper._judge("utterance")
        assert len(it.keeper._weigh_at) == 1
