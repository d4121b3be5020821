from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from inference.priority import LOADING, give_way, run_giving_way


def own_nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_gives_way_alone() -> None:
    before = own_nice()
    with ThreadPoolExecutor(1, initializer=give_way, initargs=(LOADING,)) as executor:
        assert executor.submit(own_nice).result() == min(before + LOADING, 19)
    assert own_nice() == before


async def test_what_gives_way_runs_in_a_thread_of_its_own_and_its_error_comes_back() -> None:
    before = own_nice()
    assert await run_giving_way(LOADING, own_nice) == min(before + LOADING, 19)
    with pytest.raises(ZeroDivisionError):
        await run_giving_way(LOADING, divmod, 1, 0)
    assert own_nice() == before
