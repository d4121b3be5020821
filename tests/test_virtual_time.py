from __future__ import annotations

import asyncio
import time

import pytest

from tests.virtual_time import run_virtual, virtual_time

pytest_plugins = ["pytester"]


@virtual_time
async def test_an_hour_passes_at_once() -> None:
    loop = asyncio.get_running_loop()
    before_s = time.monotonic()
    await asyncio.sleep(3600)
    assert loop.time() == pytest.approx(3600)
    assert time.monotonic() - before_s < 60


@virtual_time
async def test_timers_fire_in_order() -> None:
    fired: list[str] = []

    async def after(delay_s: float, name: str) -> None:
        await asyncio.sleep(delay_s)
        fired.append(name)

    await asyncio.gather(after(3, "third"), after(1, "first"), after(2, "second"))
    assert fired == ["first", "second", "third"]


@virtual_time
async def test_the_clock_stands_while_a_thread_works() -> None:
    loop = asyncio.get_running_loop()
    reached: list[float] = []
    timer = loop.call_later(0.5, lambda: reached.append(loop.time()))
    await loop.run_in_executor(None, lambda: None)
    assert loop.time() == 0.0
    assert not reached
    timer.cancel()


def test_a_leaked_task_fails_the_test() -> None:
    tasks = []

    async def leaks() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(10)))

    with pytest.raises(AssertionError, match="leaked"):
        run_virtual(leaks())


def test_a_leaked_task_fails_a_plain_async_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "from tests.conftest import _leak_check, _no_leaked_tasks\n__all__ = ['_leak_check', '_no_leaked_tasks']"
    )
    pytester.makepyfile(
        """
        import asyncio

        tasks = []

        async def test_leaks():
            tasks.append(asyncio.create_task(asyncio.sleep(10)))

        async def test_clean():
            await asyncio.create_task(asyncio.sleep(0))
        """
    )
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function")
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, errors=1)
