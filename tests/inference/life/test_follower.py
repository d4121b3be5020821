"""Two processes of one server: each with its own engine and keeper, over one repository and one file of records."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from inference.errors import ModelError
from inference.life.file import read_records, update_records
from inference.life.ledger import Ledger
from inference.life.record import Move, Record, SetAside, next_move
from tests.inference.life.backends import Crashing
from tests.inference.life.folders import drop_version
from tests.inference.life.running import running

BACK = SetAside("rolled_back", "is bad", "b", 1.0)


@pytest.mark.parametrize(
    ("record", "theirs", "expected"),
    [
        (Record(1), Record(1), None),
        (Record(1), Record(1, set_aside={2: BACK}), None),
        (Record(1), Record(2, 1), Move("serve", 2)),
        (Record(1, candidate=2, stage="canary", ratio=0.1), Record(2, 1), Move("serve", 2)),
        (Record(2, 1), Record(1, set_aside={2: BACK}), Move("go_back", 1, "is bad")),
        (Record(2), Record(1, set_aside={2: BACK}), Move("serve", 1)),  # it never knew the one before
        (Record(1), Record(1, candidate=2, stage="shadow", ratio=0.1), Move("begin", 2)),
        (
            Record(1, candidate=2, stage="canary", ratio=0.1),
            Record(1, candidate=2, stage="canary", ratio=0.5),
            Move("begin", 2),
        ),
        (
            Record(1, candidate=2, stage="canary", ratio=0.1),
            Record(1, set_aside={2: BACK}),
            Move("give_up", 2, "is bad"),
        ),
    ],
)
def test_what_is_done_next_to_follow(record: Record, theirs: Record, expected: Move | None) -> None:
    assert next_move(record, theirs) == expected


async def test_a_decision_about_one_model_leaves_what_others_decided_about_another(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    here, there = Ledger(file), Ledger(file)
    here.keep("a", Record(1))
    await here.flush()
    there.keep("b", Record(2))
    assert await there.others() == {}, "it does not know the model"
    assert read_records(file) == {"a": Record(1), "b": Record(2)}
    here.records["b"] = Record(1)
    assert await here.others() == {"b": Record(2)}
    here.keep("b", Record(3))
    assert await here.others() == {}, "what was decided here since wins"
    assert read_records(file)["b"] == Record(3)
    file.write_text("{")
    assert await here.others() == {}
    with pytest.raises(ModelError, match="cannot be read"):
        update_records(file, lambda found: found)
    assert file.read_text() == "{", "a damaged file is never overlooked"


async def test_promotions_trials_and_rollbacks_reach_the_other_process(repository: Path) -> None:
    drop_version(repository, 2)
    async with running(repository) as one, running(repository) as other:
        assert await one.ask() == await other.ask() == 2
        await one.keeper.promote("utterance", 1)
        await other.events.saw("promoted")
        assert await other.ask() == 1
        assert other.version(2).state == "passed_over"
        await other.keeper.promote("utterance", 2, stage="canary", ratio=0.5)
        await one.events.saw("canaried")
        calls = [f"call-{i}" for i in range(50)]
        assert [await one.ask(owner=call) for call in calls] == [await other.ask(owner=call) for call in calls]
        assert await one.keeper.rollback("utterance") == 1
        await other.events.saw("rolled_back")
        assert {await other.ask(owner=call) for call in calls} == {1}
        assert other.version(2).reason == "by command"
        await other.keeper.promote("utterance", 2)
        assert await one.keeper.rollback("utterance") == 1, "a command knows what another process just did"
        await other.events.saw("rolled_back", 2)
        assert await other.ask() == 1
        assert one.keeper._records == other.keeper._records == read_records(repository.parent / "models.json")


async def test_a_start_neither_ends_nor_misses_a_trial(repository: Path) -> None:
    async with running(repository) as one:
        drop_version(repository, 2)
        await one.events.saw("promoted")
        await one.keeper.promote("utterance", 1, stage="canary", ratio=0.5)
        async with running(repository) as other:
            await other.events.saw("canaried")
            assert other.version(1).ratio == 0.5
            await one.keeper._look()
        assert one.version(1).state == "canary"
        assert "rolled_back" not in one.events.changes


async def test_a_version_that_fails_in_one_process_is_given_up_in_both(repository: Path) -> None:
    backend = Crashing()
    async with running(repository, backends={"onnxruntime": backend}) as one, running(repository) as other:
        drop_version(repository, 2)
        await one.events.saw("promoted")
        await other.events.saw("promoted")
        backend.is_broken = True
        for _ in range(6):
            await one.ask()
        await one.events.saw("rolled_back")
        await other.events.saw("rolled_back")
        assert await other.ask() == 1
        assert "rows failed one after another" in other.version(2).reason


async def test_a_rollback_is_not_lost_where_another_process_decides_before_it_hears_of_it(repository: Path) -> None:
    backend = Crashing()
    async with (
        running(repository, backends={"onnxruntime": backend}, poll_s=3600.0) as one,
        running(repository, poll_s=3600.0) as other,
    ):
        drop_version(repository, 2)
        await one.keeper.promote("utterance", 2)
        await other.keeper._follower.catch_up("utterance")
        assert await other.ask() == 2
        backend.is_broken = True
        for _ in range(5):
            assert await one.ask() == 1
        assert one.events.changes[-2:] == ["rolled_back", "unloaded"]
        other.keeper._set_aside("utterance", 3, SetAside("refused", "is bad", "c", 1.0))  # it has not looked since
        await other.keeper._ledger.flush()
        for process in (one, other):
            await process.keeper._follower.catch_up("utterance")
            assert await process.ask() == 1
        record = read_records(repository.parent / "models.json")["utterance"]
        assert (record.serving, set(record.set_aside)) == (1, {2, 3})
        assert one.keeper._records == other.keeper._records == {"utterance": record}


async def test_a_promotion_does_not_bring_back_what_another_process_gave_up_meanwhile(repository: Path) -> None:
    async with running(repository, poll_s=3600.0) as one, running(repository, poll_s=3600.0) as other:
        drop_version(repository, 2)
        await one.keeper.promote("utterance", 2, stage="canary", ratio=0.5)
        await other.keeper._follower.catch_up("utterance")
        one.keeper._withdraw("utterance", 2, "is bad")
        other.keeper._serve("utterance", 2, is_command=True)  # before it has heard of that
        await one.keeper._ledger.flush()
        for process in (other, one, other):
            await process.keeper._follower.catch_up("utterance")
        assert await one.ask() == await other.ask() == 1
        assert one.keeper._records == other.keeper._records
        assert other.keeper._records["utterance"].set_aside[2].reason == "is bad"


async def test_a_process_that_starts_during_a_trial_and_refuses_another_version_does_not_end_it(
    repository: Path,
) -> None:
    drop_version(repository, 2, spoil=lambda version: (version / "model.onnx").unlink())
    file = repository.parent / "models.json"
    drop_version(repository, 3)
    update_records(file, lambda _: {"utterance": Record(1, candidate=3, stage="canary", ratio=0.5)})
    async with running(repository, poll_s=3600.0) as it:
        await it.keeper._ledger.flush()
        record = read_records(file)["utterance"]
        assert (record.candidate, record.stage, set(record.set_aside)) == (3, "canary", {2})


async def test_what_one_process_cannot_load_none_serves(repository: Path) -> None:
    may_go = asyncio.Event()

    async def refuses(*_: Any) -> None:
        await may_go.wait()
        raise ModelError("no memory left", path="utterance/2")

    async with running(repository) as one, running(repository, trial=refuses) as other:
        drop_version(repository, 2)
        await one.events.saw("promoted")
        may_go.set()
        await one.events.saw("rolled_back")
        assert await one.ask() == await other.ask() == 1
        assert "no memory left" in one.version(2).reason


async def test_what_one_process_refuses_before_its_first_look_at_it_does_not_come_back(repository: Path) -> None:
    async def refuses(*_: Any) -> None:
        raise ModelError("no memory left", path="utterance/2")

    async with running(repository, poll_s=3600.0) as one, running(repository, trial=refuses, poll_s=3600.0) as other:
        drop_version(repository, 2)
        await one.keeper.promote("utterance", 2)
        await other.keeper._follower.catch_up("utterance")
        await other.keeper._ledger.flush()
        await one.keeper._follower.catch_up("utterance")
        await one.keeper._look()
        assert (one.version(2).state, one.version(2).reason) == ("refused", "utterance/2: no memory left")


async def test_a_process_that_cannot_go_back_does_not_bring_back_what_was_given_up(repository: Path) -> None:
    async def refuses(*_: Any) -> None:
        raise ModelError("no memory left", path="utterance/1")

    drop_version(repository, 2)
    file = repository.parent / "models.json"
    update_records(file, lambda _: {"utterance": Record(2, 1)})
    async with running(repository, poll_s=3600.0) as one, running(repository, trial=refuses, poll_s=3600.0) as other:
        assert await one.keeper.rollback("utterance") == 1
        await other.keeper._follower.catch_up("utterance")
        assert await other.ask() == 2
        assert other.events.changes == []
    assert read_records(file)["utterance"].serving == 1
