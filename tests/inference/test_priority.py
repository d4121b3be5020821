from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from inference.priority import BATCHES, LOADING, give_way


def own_nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_gives_way_alone() -> None:
    before = own_nice()
    with ThreadPoolExecutor(1, initializer=give_way, initargs=(BATCHES,)) as executor:
        assert executor.submit(own_nice).result() == min(before + BATCHES, 19)
    assert own_nice() == before


def test_batches_go_before_new_versions_and_after_who_takes_requests() -> None:
    assert 0 < BATCHES < LOADING
