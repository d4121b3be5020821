"""An event loop whose clock jumps to the next timer, so that a 30-second call takes milliseconds and repeats exactly.

    ready callbacks → run;  nothing ready → the clock jumps to the next timer;  work in a thread → real waiting

The clock never moves while a `run_in_executor` job is out, because its result belongs to the present. Other threads
are unknown to the loop: a test that uses one waits on its event, with no timer running against it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Polls instead of waiting, and hands the time it did not wait to the loop's clock."""

    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        if self.loop.num_executor_jobs:
            return super().select(None)  # woken by the job's result
        ready = super().select(0)
        if not ready:
            self.loop.now_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and moves only when every task waits."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.num_executor_jobs = 0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        self.num_executor_jobs += 1
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._job_done)
        return future

    def _job_done(self, _: asyncio.Future[Any]) -> None:
        self.num_executor_jobs -= 1


def leaked_tasks() -> list[asyncio.Task[Any]]:
    """Tasks of the running loop that outlived their test."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run to completion on a fresh virtual clock; fails on leaked tasks."""

    async def checked() -> T:
        result = await main
        assert not leaked_tasks(), f"the test leaked {leaked_tasks()}"
        return result

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(checked())


def virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Decorate an async test, so that it runs on virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtual(test(*args, **kwargs))

    # pytest-asyncio looks through `__wrapped__` and would run the coroutine itself, in real time.
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    del run.__wrapped__
    return run
