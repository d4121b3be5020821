from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import Sequence

import pytest

from server.store.group_commit import GroupCommit
from server.wire.errors import Unavailable
from tests.virtual_time import virtual_time


class Disk:
    """Writes to a list; fails and blocks on demand."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.batches: list[tuple[str, ...]] = []
        self.failures = 0
        self.attempts = 0
        self.gate: threading.Event | None = None
        self.threads: set[str] = set()
        self.loop = asyncio.get_running_loop()
        self.started = asyncio.Event()
        self.recovered = asyncio.Event()

    def write(self, batch: Sequence[str]) -> None:
        self.attempts += 1
        self.threads.add(threading.current_thread().name)
        self.loop.call_soon_threadsafe(self.started.set)
        if self.gate is not None:
            self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOSPC, "no space")
        self.written += batch
        self.batches.append(tuple(batch))

    def group(self, max_bytes: int = 1000) -> tuple[GroupCommit[str], list[object]]:
        told: list[object] = []

        def on_trouble(error: Exception | None) -> None:
            told.append(type(error).__name__)
            if error is None:
                self.recovered.set()

        group: GroupCommit[str] = GroupCommit(
            self.write,
            name="writer",
            linger_s=0.01,
            max_unwritten_bytes=max_bytes,
            on_committed=told.append,
            on_trouble=on_trouble,
        )
        group.start()
        return group, told


@virtual_time
async def test_company_shares_a_batch_in_order() -> None:
    disk = Disk()
    group, told = disk.group()
    for item in "abc":
        assert group.offer(item, 1)
    await group.committed()
    group.offer("d", 1)
    assert await group.stop()
    assert disk.batches == [("a", "b", "c"), ("d",)]
    assert told == [["a", "b", "c"], ["d"]]
    assert len(disk.threads) == 1
    assert threading.current_thread().name not in disk.threads


@virtual_time
async def test_nothing_offered_is_committed_already() -> None:
    group, _ = Disk().group()
    await group.committed()
    assert await group.stop()


@virtual_time
async def test_a_full_queue_refuses_and_takes_again() -> None:
    disk = Disk()
    group, _ = disk.group(max_bytes=10)
    assert group.offer("a", 11), "alone, an item of any size has room"
    assert not group.offer("b", 1)
    assert group.offer("c", 0), "an item of no size always has room"
    await group.committed()
    assert group.offer("b", 1)
    assert await group.stop()
    assert not group.offer("d", 1)
    assert disk.written == ["a", "c", "b"]


@virtual_time
async def test_what_is_being_written_counts_and_can_be_waited_for() -> None:
    disk = Disk()
    disk.gate = threading.Event()
    group, _ = disk.group(max_bytes=10)
    group.offer("a", 6)
    await disk.started.wait()
    done = group.committed()
    assert not group.offer("b", 6)
    assert not done.done()
    disk.gate.set()
    await done
    assert disk.written == ["a"]
    assert await group.stop()


@virtual_time
async def test_failure_is_told_once_and_tried_again() -> None:
    disk = Disk()
    disk.failures = 3
    group, told = disk.group()
    group.offer("a", 1)
    with pytest.raises(Unavailable):
        await group.committed()
    group.offer("b", 1)
    with pytest.raises(Unavailable):
        await group.committed()
    await disk.recovered.wait()
    await group.committed()
    assert disk.written == ["a", "b"]
    assert told[:2] == ["OSError", "NoneType"]
    assert await group.stop()


@virtual_time
async def test_stopping_while_the_disk_fails_tells_what_is_lost() -> None:
    disk = Disk()
    disk.failures = 10**9
    group, _ = disk.group()
    group.offer("a", 1)
    with pytest.raises(Unavailable):
        await group.committed()
    assert not await group.stop()


@virtual_time
async def test_a_waiter_that_gives_up_leaves_the_others() -> None:
    disk = Disk()
    group, _ = disk.group()
    group.offer("a", 1)
    first, second = group.committed(), group.committed()
    first.cancel()
    await second
    assert await group.stop()


@virtual_time
async def test_a_broken_writer_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Sequence[str]) -> None:
        raise ValueError("a bug")

    group: GroupCommit[str] = GroupCommit(broken, name="writer", linger_s=0.01, max_unwritten_bytes=10)
    group.start()
    group.offer("a", 1)
    with caplog.at_level(logging.CRITICAL), pytest.raises(Unavailable):
        await group.committed()
    assert "the writer died" in caplog.text
    assert not group.offer("b", 1)
    assert not await group.stop()
