"""The life of versions, on real onnxruntime with models of a few numbers."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference.errors import ModelError
from inference.golden import GOLDEN_FILE
from inference.life import folder, loader
from inference.life.file import read_records
from inference.life.loader import Loader
from inference.life.timing import Timing, side_by_side
from inference.service import Service
from tests.inference.life.backends import Slow
from tests.inference.life.folders import drop_version
from tests.inference.life.running import PinsNothing, Running, running
from tests.inference.tiny_models import encoder_onnx


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


def pipe(name: str) -> Callable[[Path], None]:
    def spoil(version: Path) -> None:
        (version / name).unlink(missing_ok=True)
        os.mkfifo(version / name)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (pipe("SHA256SUMS"), r"SHA256SUMS: cannot be read \(NotRegularFileError\)"),
        (pipe(GOLDEN_FILE), r"golden\.json: cannot be read: is no regular file"),
        (pipe("heads.json"), r"heads\.json: cannot be read \(NotRegularFileError\)"),
        (pipe("model.onnx"), "no weights"),
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


async def test_a_version_whose_rival_goes_while_both_are_timed_is_judged_beside_the_next_one(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, compared = asyncio.get_running_loop(), []

    async def go_back(it: Running) -> None:
        await it.keeper.rollback("utterance")
        it.keeper._tidy("utterance")

    def timed(candidate: Service, serving: Service) -> tuple[Timing, ...]:
        compared.append((candidate.lane[1], serving.lane[1]))
        if serving.lane[1] == 2:
            asyncio.run_coroutine_threadsafe(go_back(it), loop).result(30)
        return side_by_side(candidate, serving)

    monkeypatch.setattr(loader, "seems_slow", lambda *_: True)
    monkeypatch.setattr(loader, "side_by_side", timed)
    async with running(repository) as it:
        drop_version(repository, 2)
        await it.events.saw("promoted")
        drop_version(repository, 3)
        await it.events.saw("promoted", 2)
        assert compared == [(2, 1), (3, 2), (3, 1)]
        assert await it.ask() == 3
        await it.events.saw("unloaded")
        assert it.engine.versions("utterance") == (3, 1)


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


async def test_a_version_on_its_way_in_is_not_said_to_be_unloaded(repository: Path) -> None:
    is_asked, may_go = asyncio.Event(), asyncio.Event()

    class Thorough(PinsNothing):
        async def prepare(self, model: str, version: int) -> None:
            is_asked.set()
            await may_go.wait()

    async with running(repository) as it:
        it.keeper.add_consumer(Thorough())
        drop_version(repository, 2)
        await is_asked.wait()
        it.keeper._tidy("utterance")
        may_go.set()
        await it.events.saw("promoted")
        assert it.events.changes == ["loaded", "promoted"]


@pytest.mark.parametrize(
    "change", [cut, lambda v: (v.parent / "sentiment_logits.txt").write_text("?\n"), shutil.rmtree]
)
async def test_files_of_what_serves_that_change_or_go_are_told_and_harm_nobody(
    repository: Path, change: Callable[[Path], object]
) -> None:
    async with running(repository, poll_s=3600.0) as it:
        before = await it.engine.embed(["my card is lost"])
        assert it.version(1).reason == ""
        change(repository / "utterance" / "1")
        await it.keeper._look()
        assert it.version(1).state == "serving"
        assert re.match("files of it or of its model changed|its folder is gone", it.version(1).reason)
        assert await it.ask() == 1
        assert (await it.engine.embed(["my card is lost"]) == before).all()


async def test_a_folder_that_cannot_be_read_for_whatever_reason_ends_no_watch(
    repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    is_read = asyncio.Event()
    loop = asyncio.get_running_loop()

    def unreadable(_: Path) -> Any:
        loop.call_soon_threadsafe(is_read.set)
        raise RuntimeError("not foreseen")

    async with running(repository) as it:
        with monkeypatch.context() as patch:
            patch.setattr(folder, "scan", unreadable)
            await is_read.wait()
        drop_version(repository, 2)
        await it.events.saw("promoted")
        assert await it.ask() == 2
    assert "not foreseen" in caplog.text


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


async def test_what_is_rolled_back_before_the_first_look_at_it_does_not_come_back(repository: Path) -> None:
    async with running(repository, poll_s=3600.0) as it:
        drop_version(repository, 2)
        await it.keeper.promote("utterance", 2)
        await it.keeper.rollback("utterance")
        await it.keeper._look()
        assert it.version(2).state == "rolled_back"


@pytest.mark.parametrize("is_rollback", [False, True])
async def test_the_last_command_counts_however_long_the_one_before_takes(repository: Path, is_rollback: bool) -> None:
    is_tried, may_go = asyncio.Event(), asyncio.Event()

    async def trial(version: Any, _: float) -> None:
        if version.version == 1:
            is_tried.set()
            await may_go.wait()

    drop_version(repository, 2)
    drop_version(repository, 3)
    async with running(repository, trial=trial, probation_s=0.0, poll_s=3600.0) as it:
        await it.keeper.promote("utterance", 2)
        first = asyncio.create_task(it.keeper.promote("utterance", 1))
        await is_tried.wait()
        if is_rollback:
            assert await it.keeper.rollback("utterance") == 3
        else:
            await it.keeper.promote("utterance", 3)
        may_go.set()
        with pytest.raises(ModelError, match="another command came while it was loaded"):
            await first
        assert await it.ask() == 3


async def test_the_same_command_twice_at_once_is_one(repository: Path) -> None:
    drop_version(repository, 2)
    async with running(repository, poll_s=3600.0) as it:
        await it.keeper.promote("utterance", 1)
        await asyncio.gather(*(it.keeper.promote("utterance", 2) for _ in range(3)))
        assert await it.ask() == 2
        assert it.events.changes.count("loaded") <= 1


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
