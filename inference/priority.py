"""Who gets a core first where there are too few: the event loop, versions that serve, versions that are coming."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SERVING = 5
"""Threads that run models give way to the event loop, a third of its share: what waits for a model goes into a larger
batch, what waits for the loop only waits. At 450 updates a second on two cores, which others used as well, the median
fell from 105 to 50 ms."""
LOADING = SERVING + 10
"""Trying, loading and warming a version must not take cores from those that serve: a ninth of their share."""


def give_way(nice: int) -> None:
    """Lower the priority of the calling thread alone, for as long as it lives. Linux: a thread has one of its own.

    Args:
        nice: By how much; the process may have been started with a low priority already.
    """
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + nice)  # the kernel ends at 19


async def run_giving_way(nice: int, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run something that blocks in a thread of its own, with its priority lowered by `nice`."""
    executor = ThreadPoolExecutor(1, "giving-way", give_way, (nice,))
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, lambda: work(*arguments, **named))
    finally:
        executor.shutdown(wait=False)
