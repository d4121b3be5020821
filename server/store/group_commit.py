"""Group commit: many small writes become few large ones, in order, on one owned thread.

    offer(item) ──▶ pending ──(linger)──▶ batch ──▶ write(batch) in the thread ──▶ on_committed(batch)
                                                     └ OSError: told once, tried again with back-off until it works

The event loop never waits for a disk. What is pending is bounded: a full queue refuses (`offer` returns False) and the
owner names the reaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from server.wire.errors import Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

RETRY_BASE_S = 0.05


class GroupCommit(Generic[T]):
    """Writes batches in order. Made and used on the event loop; `write` alone runs in the thread.

    Args:
        write: Makes a batch durable. On `OSError` it is called again with the same batch, so it has to undo or
            overwrite what a failed call left.
        name: Names thread and task.
        linger_s: How long the first item of a batch waits for company.
        max_unwritten_bytes: Bound of what waits and of the batch being written, together.
        on_committed: Told of each written batch.
        on_trouble: Told the error when writing begins to fail, None when it works again.
        retry_cap_s: Longest back-off.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], None],
        *,
        name: str,
        linger_s: float,
        max_unwritten_bytes: int,
        on_committed: Callable[[Sequence[T]], None] = lambda _: None,
        on_trouble: Callable[[Exception | None], None] = lambda _: None,
        retry_cap_s: float = 5.0,
    ) -> None:
        self._write = write
        self._name = name
        self._linger_s = linger_s
        self._max_unwritten_bytes = max_unwritten_bytes
        self._on_committed = on_committed
        self._on_trouble = on_trouble
        self._retry_cap_s = retry_cap_s
        self._pending: list[T] = []
        self._pending_bytes = 0
        self._writing_bytes = 0
        self._is_writing = False
        self._pending_waiters: list[asyncio.Future[None]] = []
        self._writing_waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._trouble: Exception | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._task: asyncio.Task[None] | None = None

    @property
    def unwritten_bytes(self) -> int:
        """Size of what is not written yet."""
        return self._pending_bytes + self._writing_bytes

    @property
    def trouble(self) -> Exception | None:
        """Why writing fails at present; None while it works."""
        return self._trouble

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name=self._name)
        self._task.add_done_callback(self._ended)

    def offer(self, item: T, size_bytes: int) -> bool:
        """Take an item to be written; False if there is no room for it, or no writer any more.

        When nothing waits there is room for one item of any size: one that never fitted would wait for ever. An item of
        no size, such as a deletion, always has room.
        """
        unwritten_bytes = self.unwritten_bytes
        is_full = bool(unwritten_bytes and size_bytes) and unwritten_bytes + size_bytes > self._max_unwritten_bytes
        if is_full or self._stopping.is_set():
            return False
        self._pending.append(item)
        self._pending_bytes += size_bytes
        self._wake.set()
        return True

    def committed(self) -> asyncio.Future[None]:
        """Done once everything offered so far is written. Each caller gets its own; nobody has to await it.

        Fails with `Unavailable` while writing fails: the items stay queued and are written when it works again.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._trouble is not None:
            _resolve([waiter], _unavailable())
        elif self._pending:
            self._pending_waiters.append(waiter)
        elif self._is_writing:
            self._writing_waiters.append(waiter)
        else:
            waiter.set_result(None)
        return waiter

    async def run_in_thread(self, job: Callable[[], R]) -> R:
        """Run something on the writing thread: between two batches, never during one."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)

    async def stop(self) -> bool:
        """Write what is pending and end; False if some of it could not be written."""
        self._stopping.set()
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._thread.shutdown(wait=False)  # idle: its last job was awaited
        return not self.unwritten_bytes

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if not self._stopping.is_set():
                await asyncio.sleep(self._linger_s)
            self._wake.clear()
            batch, self._pending = self._pending, []
            self._writing_bytes, self._pending_bytes = self._pending_bytes, 0
            self._is_writing = True
            self._writing_waiters, self._pending_waiters = self._pending_waiters, []
            if batch and not await self._write_until_done(batch):
                return
            self._is_writing = False
            self._writing_bytes = 0
            _resolve(self._writing_waiters)
            if batch:
                self._on_committed(batch)
            if self._stopping.is_set() and not self._pending:
                return

    async def _write_until_done(self, batch: list[T]) -> bool:
        loop = asyncio.get_running_loop()
        delay_s = RETRY_BASE_S
        while True:
            try:
                await loop.run_in_executor(self._thread, self._write, batch)
            except OSError as error:
                self._fail(error)
                if self._stopping.is_set():
                    return False
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), random.uniform(0, delay_s))
                delay_s = min(self._retry_cap_s, 2 * delay_s)
            else:
                if self._trouble is not None:
                    logger.warning("writing works again", extra={"writer": self._name})
                    self._trouble = None
                    self._on_trouble(None)
                return True

    def _fail(self, error: Exception) -> None:
        """Tell the waiters each time, and everybody else once."""
        for waiters in (self._writing_waiters, self._pending_waiters):
            _resolve(waiters, _unavailable())
        if self._trouble is None:
            self._trouble = error
            logger.error("writing fails", extra={"writer": self._name, "error": str(error)})
            self._on_trouble(error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The task's death is loud, and nobody waits for it."""
        error = None if task.cancelled() else task.exception()
        if error is not None or not self._stopping.is_set():
            logger.critical("the writer died", extra={"writer": self._name}, exc_info=error)
            self._stopping.set()
            self._fail(error if isinstance(error, Exception) else RuntimeError("the writer was cancelled"))


def _unavailable() -> Unavailable:
    return Unavailable("the record cannot be made durable at present")


def _resolve(waiters: list[asyncio.Future[None]], error: Exception | None = None) -> None:
    """End those that still wait, and forget them all; a failure that nobody looks at is no one's mistake."""
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
            waiter.exception()
    waiters.clear()
