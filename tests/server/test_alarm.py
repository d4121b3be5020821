from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from server.alarm import Alarm
from tests.virtual_time import virtual_time

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def alarm() -> tuple[asyncio.AbstractEventLoop, Alarm, list[float]]:
    loop = asyncio.get_running_loop()
    rang: list[float] = []
    return loop, Alarm(loop, lambda: rang.append(loop.time())), rang


@virtual_time
async def test_it_rings_once_at_the_time_it_was_last_set_to() -> None:
    loop, bell, rang = alarm()
    due_s = loop.time() + 0.1
    bell.set(loop.time() + 0.03)
    bell.set(due_s)  # put off: the timer that is there looks again
    await asyncio.sleep(0.06)
    assert rang == []
    await asyncio.sleep(0.08)
    assert len(rang) == 1
    assert rang[0] >= due_s - 0.002
    bell.set(due_s)  # the same time, and it was not stopped
    await asyncio.sleep(0.02)
    assert len(rang) == 1


@virtual_time
async def test_a_time_before_the_one_it_was_set_to_is_kept() -> None:
    loop, bell, rang = alarm()
    bell.set(loop.time() + 30.0)
    bell.set(loop.time() + 0.02)
    await asyncio.sleep(0.05)
    assert len(rang) == 1


@virtual_time
async def test_it_does_not_ring_when_it_is_stopped_or_set_to_nothing_but_may_be_set_again() -> None:
    loop, bell, rang = alarm()
    bell.set(loop.time() + 0.02)
    bell.stop()
    bell.set(loop.time() + 0.02)
    bell.set(None)
    await asyncio.sleep(0.05)
    assert rang == []
    bell.set(loop.time() + 0.01)
    await asyncio.sleep(0.03)
    bell.stop()
    bell.set(loop.time() + 0.01)
    await asyncio.sleep(0.03)
    assert len(rang) == 2


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_time_that_has_come_may_be_put_off_and_one_that_has_passed_rings_at_once(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def check() -> None:
        loop, bell, rang = alarm()
        bell.set(loop.time())
        bell.set(loop.time() + 30.0)
        await asyncio.sleep(0.02)
        assert rang == []
        bell.set(loop.time() - 1.0)
        bell.set(loop.time() - 0.5)
        await asyncio.sleep(0.02)
        assert len(rang) == 1
        bell.stop()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(check())
