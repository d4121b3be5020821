"""The life of versions, on real onnxruntime with models of a few numbers."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference.backends.onnxruntime import OnnxRuntimeBackend
from inference.errors import InferenceError, ModelError
from inference.golden import GOLDEN_FILE
from inference.life.file import read_records
from inference.life.loader import Loader
from inference.request import Outcome, Request
from tests.inference.life.folders import drop_version, write_repository
from tests.inference.life.running import running
from tests.inference.tiny_models import encoder_onnx


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "model_repo")


async def test_a_new_version_is_proven_warmed_and_serves_and_the_old_one_leaves(repository: Path) -> None:
    async with running(repository, probation_s=0.05) as it:
        assert await it.ask() == 1
        assert it.version(1).is_proven
        drop_version(repository, 2)
        await it.events.saw("promoted")
        assert await it.ask() == 2
        await it.events.saw("unloaded")
        assert (it.version(2).state, it.version(1).state) == ("serving", "available")
        assert it.engine.versions("utterance") == (2,)
    assert read_records(repository.parent / "models.json")["utterance"].serving == 2


def cut(version: Path) -> None:
    weights = version / "model.onnx"
    weights.write_bytes(weights.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut, "onnxruntime cannot load it"),
        (lambda v: (v / "model.onnx").write_bytes(encoder_onnx(seed=9)), r"row 0: .* differs by"),
        (lambda v: (v / "model.onnx").write_bytes(encoder_onnx(dims=5)), r"expected FP32\[4\], given FP32\[5\]"),
        (lambda v: (v / "heads.json").write_text('{"intent_logits": {"kind": "single"}}'), "has no head for"),
        (lambda v: (v / "heads.json").write_text("{"), r"heads\.json"),
        (lambda v: (v / GOLDEN_FILE).unlink(), "has no golden inputs"),
        (lambda v: (v / GOLDEN_FILE).write_text("{}"), r"golden\.json: cannot be read"),
        (lambda v: (v / "SHA256SUMS").write_text("0  model.onnx\n"), "is another file, or not all of it"),
        (lambda v: shutil.copy(v.parent / "utterance/tokenizer.json", v) and lower(v), "makes other tokens"),
    ],
)
async def test_a_bad_version_is_refused_with_the_reason_and_hurts_nobody(
    repository: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    async with running(repository) as it:
        drop_version(repository, 2, spoil=spoil)
        await it.events.saw("refused")
        assert it.version(2).state == "refused"
        assert re.search(reason, it.version(2).reason), it.version(2).reason
        assert await it.ask() == 1
        drop_version(repository, 3)  # and the next good one is taken
        await it.events.saw("promoted")
        assert await it.ask() == 3


def lower(version: Path) -> None:
    file = version / "tokenizer.json"
    file.write_text(file.read_text().replace('"lowercase":true', '"lowercase":false').replace('"card"', '"carb"'))


async def test_a_version_whose_labels_are_gone_is_refused(repository: Path) -> None:
    async with running(repository) as it:
        labels = repository / "utterance" / "intent_logits.txt"
        labels.write_text(labels.read_text().replace("balance", "saldo"))
        drop_version(repository, 2)
        await it.events.saw("refused")
        assert "label 'balance' of version 1 is gone" in it.version(2).reason
        assert await it.ask() == 1


async def test_a_folder_that_is_still_being_copied_is_left_alone_until_it_is_whole(repository: Path) -> None:
    now_s = 0.0
    async with running(repository, clock=lambda: now_s, settle_s=5.0) as it:
        whole = drop_version(repository, 2)
        content = (whole / "model.onnx").read_bytes()
        for part in (100, 1000, len(content)):
            (whole / "model.onnx").write_bytes(content[:part])
            await it.keeper._look()
            now_s += 4.9
            await it.keeper._look()
            assert it.version(2).state == "settling"
            assert await it.ask() == 1
        now_s += 5.0
        await it.events.saw("promoted")
        assert "refused" not in it.events.changes
        assert await it.ask() == 2


class Slow(OnnxRuntimeBackend):
    """Takes two hundred times as long for version 2, while told so."""

    is_slow = True

    def load(self, version: Any) -> Any:
        model = super().load(version)
        run = model.run

        def slowly(*arguments: Any) -> Any:
            for _ in range(200 if self.is_slow and version.version == 2 else 1):
                result = run(*arguments)
            return result

        model.run = slowly  # type: ignore[method-assign]
        return model


async def test_a_slow_version_is_refused(repository: Path) -> None:
    async with running(repository, backends={"onnxruntime": Slow()}, max_latency_ratio=20.0) as it:
        drop_version(repository, 2)
        await it.events.saw("refused")
        assert "allowed is 20 times" in it.version(2).reason
        assert it.engine.versions("utterance") == (1,)
        assert await it.ask() == 1


async def test_a_version_that_was_warmed_in_a_bad_moment_is_taken(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Slow()
    compared = []
    compare = Loader.compare

    async def compare_later(self: Loader, *services: Any) -> Any:
        backend.is_slow = False
        compared.append(await compare(self, *services))
        return compared[-1]

    monkeypatch.setattr(Loader, "compare", compare_later)
    async with running(repository, backends={"onnxruntime": backend}, max_latency_ratio=20.0) as it:
        drop_version(repository, 2)
        await it.events.saw("promoted")
        assert len(compared) == 1
        assert await it.ask() == 2


async def test_a_version_that_is_not_ready_in_time_is_refused(repository: Path) -> None:
    async def hangs(*_: Any) -> None:
        await asyncio.Event().wait()

    async with running(repository, trial=hangs, max_load_s=0.05) as it:
        drop_version(repository, 2)
        await it.events.saw("refused")
        assert "was not ready after 0.05 s" in it.version(2).reason


async def test_a_copy_that_goes_on_while_its_first_half_is_refused_is_tried_again(repository: Path) -> None:
    halves = [1]

    async def trial(version: Any, _: float) -> None:
        if halves:
            halves.pop()
            (version.path / "rest").write_text("the other half")
            await it.keeper._look()  # so the folder was seen whole before the refusal
            raise ModelError("only half of it is there", path="utterance/2")

    async with running(repository, trial=trial) as it:
        drop_version(repository, 2)
        await it.events.saw("refused")
        await it.events.saw("promoted")
        assert await it.ask() == 2


async def test_a_command_wins_over_a_version_that_is_still_being_loaded(repository: Path) -> None:
    is_tried, may_go = asyncio.Event(), asyncio.Event()

    async def trial(*_: Any) -> None:
        is_tried.set()
        await may_go.wait()

    async with running(repository, trial=trial) as it:
        drop_version(repository, 2)
        await is_tried.wait()
        assert it.version(2).state == "loading"
        await it.keeper.promote("utterance", 1)
        may_go.set()
        await it.events.saw("unloaded")
        assert it.version(2).state == "passed_over"
        assert await it.ask() == 1


# -- commands ----------------------------------------------------------------------------------------------------------


async def test_rollback_returns_to_the_version_before_and_outlives_a_restart(repository: Path) -> None:
    async with running(repository, probation_s=0.0) as it:
        drop_version(repository, 2)
        await it.events.saw("unloaded")  # so the one before has to be loaded again
        assert await it.keeper.rollback("utterance") == 1
        assert await it.ask() == 1
        assert (it.version(2).state, it.version(2).reason) == ("rolled_back", "by command")
        with pytest.raises(ModelError, match="no version to go back to"):
            await it.keeper.rollback("utterance")
    async with running(repository) as it:
        assert await it.ask() == 1
        assert it.version(2).state == "rolled_back"
        assert it.engine.versions("utterance") == (1,)
        await it.keeper.promote("utterance", 2)
        assert await it.ask() == 2


async def test_promoting_an_older_version_passes_the_newer_ones_over(repository: Path) -> None:
    drop_version(repository, 2)
    async with running(repository) as it:
        assert await it.ask() == 2
        await it.keeper.promote("utterance", 1)
        assert await it.ask() == 1
        assert it.version(2).state == "passed_over"
        assert "version 1 was promoted" in it.version(2).reason
    async with running(repository) as it:
        assert await it.ask() == 1


async def test_a_command_that_cannot_be_carried_out_changes_nothing(repository: Path) -> None:
    async with running(repository) as it:
        for model, version, reason in [
            ("none", 1, "no such model, there is utterance"),
            ("utterance", 7, "there is no such version, there is 1"),
        ]:
            with pytest.raises(ModelError, match=reason):
                await it.keeper.promote(model, version)
        with pytest.raises(ModelError, match="serves already"):
            await it.keeper.promote("utterance", 1, stage="canary", ratio=0.5)
        assert await it.ask() == 1
        assert it.events.changes == []


# -- starting ----------------------------------------------------------------------------------------------------------


async def test_a_start_with_a_bad_newest_version_serves_the_one_before(repository: Path) -> None:
    drop_version(repository, 2, spoil=cut)
    async with running(repository) as it:
        assert await it.ask() == 1
        assert it.version(2).state == "refused"


async def test_a_version_that_came_while_nobody_watched_goes_the_usual_way(repository: Path) -> None:
    async with running(repository):
        pass
    drop_version(repository, 2)
    async with running(repository, rollout="canary", canary_ratio=0.5) as it:
        await it.events.saw("canaried")
        assert it.version(1).state == "serving"
        assert it.version(2).state == "canary"
    async with running(repository) as it:  # and goes on with it after the next start
        await it.events.saw("canaried")
        assert it.version(2).ratio == 0.5


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
    class Picky:
        async def prepare(self, model: str, version: int) -> None:
            raise InferenceError("its vectors mean nothing")

        def pins(self) -> frozenset[tuple[str, int]]:
            return frozenset()

    async with running(repository) as it:
        it.keeper.add_consumer(Picky())
        drop_version(repository, 2)
        await it.events.saw("refused")
        assert it.version(2).reason == "utterance/2: its vectors mean nothing"
        assert it.engine.versions("utterance") == (1,)


# -- going back by itself ----------------------------------------------------------------------------------------------


class Crashing(OnnxRuntimeBackend):
    """Version 2 fails once it is told to."""

    is_broken = False

    def load(self, version: Any) -> Any:
        model = super().load(version)
        if version.version == 2:
            run = model.run

            def run_or_raise(*arguments: Any) -> Any:
                if self.is_broken:
                    raise RuntimeError("out of memory")
                return run(*arguments)

            model.run = run_or_raise  # type: ignore[method-assign]
        return model


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
        (weighing,) = [task for task in it.keeper._tasks if task.get_coro().__name__ == "_weigh"]
        await weighing
        assert it.version(2).state == ("rolled_back" if is_slow else "serving")
        if is_slow:
            assert "allowed is 20 times" in it.version(2).reason
        assert await it.ask() == (1 if is_slow else 2)
        it.keeper._judge("utterance")
        assert len(it.keeper._weigh_at) == 1


# -- under load --------------------------------------------------------------------------------------------------------


def is_close(one: Any, other: Any) -> bool:
    """Equal but for the last digits, in which sums of another batch may differ."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_close(one[key], other[key]) for key in one)
    return abs(one - other) < 1e-5 if isinstance(one, float) else one == other


@pytest.mark.slow
async def test_a_hundred_swaps_during_traffic_fail_no_row_and_mix_up_none(repository: Path) -> None:
    """Calls talk all the while; every row is answered once, wholly by one version, with that version's answer."""
    texts = ["my card is lost", "thank you", "please help me now", "order late", "a b", "the 1 card please"]
    versions = (1, 2)
    drop_version(repository, 2)
    async with running(repository, probation_s=0.0, poll_s=3600.0, memo_rows=4) as it:
        expected: dict[tuple[int, str], Any] = {}
        for version in versions:
            await it.keeper.promote("utterance", version)
            for text in texts:
                outputs = await it.engine.run(it.plan, {"text": text, "speaker": "customer"})
                expected[version, text] = {name: output.value for name, output in outputs.items()}
        asked = 0
        is_over = False
        answers: list[str] = []

        def ask(call: int, turn: int, then: Callable[[], None]) -> None:
            nonlocal asked
            asked += 1
            text = texts[(call + turn) % len(texts)]
            values: dict[str, Any] = {}
            by: set[int] = set()

            def on_outputs(outputs: Any) -> None:
                values.update((output.name, output.value) for output in outputs)
                by.update(output.version for output in outputs)

            def on_done(outcome: Outcome, error: BaseException | None) -> None:
                if outcome is not Outcome.DONE:
                    answers.append(f"{outcome.name} {error!r}")
                elif len(by) != 1 or not is_close(values, expected[min(by), text]):
                    answers.append(f"{text} by {by}: {values}")
                else:
                    answers.append("right")
                then()

            it.engine.submit(
                Request(
                    plan=it.plan,
                    inputs={"text": text, "speaker": "customer"},
                    owner=f"call-{call}",
                    key=f"{turn}",
                    on_outputs=on_outputs,
                    on_done=on_done,
                )
            )

        async def talk(call: int) -> None:
            turn = 0
            while not is_over:
                done = asyncio.Semaphore(0)
                for _ in range(2):
                    ask(call, turn, done.release)
                    turn += 1
                for _ in range(2):
                    await done.acquire()
                await asyncio.sleep(0)  # what memory answers at once gives no other task a turn

        talking = [asyncio.create_task(talk(call)) for call in range(4)]
        for swap in range(100):
            serving = versions[swap % 2]
            await it.keeper.promote("utterance", serving)
            assert it.engine.service("utterance").version.version == serving
            await asyncio.sleep(0)
            it.keeper._judge("utterance")  # as a look does: ends the probation, and so the old version
            it.keeper._tidy("utterance")
        is_over = True
        await asyncio.gather(*talking)
        assert it.events.changes.count("unloaded") > 50
        await it.engine.stop()  # answers what is under way
        assert set(answers) == {"right"}
        assert len(answers) == asked > 1000
        assert it.events.changes.count("promoted") == 102
        assert it.engine.stats().dropped == {}


async def test_a_promotion_wins_over_the_version_policy_until_the_folder_changes(repository: Path) -> None:
    drop_version(repository, 2)
    config = repository / "utterance" / "config.pbtxt"
    config.write_text(config.read_text() + "\nversion_policy { specific { versions: 1 } }\n")
    async with running(repository) as it:
        assert await it.ask() == 1
        await it.keeper.promote("utterance", 2)
        await it.keeper._look()
        await it.keeper._look()
        assert await it.ask() == 2
        assert await it.keeper.rollback("utterance") == 1
        config.write_text(config.read_text().replace("versions: 1", "versions: 2"))
        await it.events.saw("promoted", 2)
        assert await it.ask() == 2
