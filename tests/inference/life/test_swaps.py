"""Versions swapped under traffic: no row fails, none is mixed up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference.request import Outcome, Request
from tests.inference.life.folders import drop_version
from tests.inference.life.running import running


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
