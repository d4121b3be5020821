from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
import uvloop

from server.ingest.idle import IdleLimit, Silent
from tests.virtual_time import virtual_time

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


async def comes_after(delay_s: float) -> str:
    await asyncio.sleep(delay_s)
    return "frame"


async def never() -> str:
    return await asyncio.get_running_loop().create_future()


async def silence(limit_s: float, *before: tuple[float, float]) -> float:
    """Wait for messages that come after so long, each within its limit, then for one that never does; how long."""
    loop = asyncio.get_running_loop()
    since_s = loop.time()
    try:
        async with IdleLimit() as idle:
            for delay_s, within_s in before:
                await idle.wait(comes_after(delay_s), within_s)
            since_s = loop.time()
            await idle.wait(never(), limit_s)
    except Silent:
        return loop.time() - since_s
    raise AssertionError("it waited for ever")


@virtual_time
async def test_a_wait_that_takes_too_long_ends_as_silence() -> None:
    assert 0.045 <= await silence(0.05) < 5.0


@virtual_time
async def test_it_is_counted_from_the_last_wait() -> None:
    assert 0.295 <= await silence(0.3, *[(0.02, 0.3)] * 5) < 5.0


@virtual_time
async def test_a_limit_may_become_longer_and_shorter() -> None:
    assert 0.045 <= await silence(0.05, (0.01, 30.0), (0.1, 60.0)) < 5.0


@virtual_time
async def test_messages_that_come_in_time_may_come_for_ever_and_what_is_done_between_them_takes_its_time() -> None:
    async with IdleLimit() as idle:
        for _ in range(4):
            assert await idle.wait(comes_after(0.02), 0.3) == "frame"
        await asyncio.sleep(0.4)  # nobody waits
        assert await idle.wait(comes_after(0.02), 0.3) == "frame"
    await asyncio.sleep(0.35)  # a timer left behind would cancel us


@virtual_time
async def test_other_errors_and_cancellation_go_on_as_they_are() -> None:
    async def fails() -> None:
        async with IdleLimit() as idle:
            await idle.wait(comes_after(0.0), 1.0)
            raise TimeoutError("somebody else's")

    with pytest.raises(TimeoutError, match="somebody else's"):
        await fails()
    task = asyncio.create_task(silence(30.0))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_message_that_comes_as_the_limit_strikes_is_worked_to_its_end(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    done: list[str] = []

    async def check() -> None:
        loop = asyncio.get_running_loop()
        message: asyncio.Future[str] = loop.create_future()

        async def comes() -> str:
            return await message

        async with IdleLimit() as idle:
            until_s = loop.time() + 0.05
            loop.call_at(until_s - 0.02, time.sleep, 0.04)  # so that both are due when the loop comes back
            loop.call_at(until_s - 0.005, message.set_result, "frame")
            done.append(await idle.wait(comes(), 0.05))
            await asyncio.sleep(0.02)
            done.append("worked")
            done.append(await idle.wait(comes_after(0.01), 0.3))

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(check())
    assert done == ["frame", "worked", "frame"]


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_limit_below_what_a_timer_counts_in_is_one_all_the_same(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(silence(0.0002, (0.0, 0.3), (0.0, 0.0002))) < 5.0
