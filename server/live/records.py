"""A call's records on their way to the outbox, in order: what it has no room for waits, and goes before the next one.

    put ──▶ waiting ──▶ outbox          as long as it takes them

Without this a record that a full disk refused would be missing for ever, under an acknowledgement of the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable
from typing import Protocol

from server.store.contract import Record

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Of one call: hours of talk. Beyond, the oldest are lost to the store; the log still has them."""
RETRY_S = 1.0
"""How often a call that is over tries to be rid of what is left."""


class RecordSink(Protocol):
    """The durable outbox."""

    def put(self, record: Record) -> Awaitable[None]:
        """Take a record now; the result is done once it is durable, and has failed at once if there is no room."""


class Records:
    """Those of one call. Event-loop thread only.

    Args:
        outbox: Where they go.
    """

    def __init__(self, outbox: RecordSink) -> None:
        self._outbox = outbox
        self._waiting: deque[Record] = deque()
        self._last: Record | None = None
        self._newest: Awaitable[None] | None = None

    def put(self, record: Record) -> None:
        """Take one more. Not awaited: the guidance never waits for the disk."""
        if len(self._waiting) == MAX_WAITING:
            log.error("a record is lost to the store: the outbox has had no room for long")
            self._waiting.popleft()
        self._waiting.append(record)
        self._last = record
        self._try()

    def stored(self) -> Awaitable[None] | None:
        """Done once everything put so far is safe; fails if that is not to be had now. None: nothing was put."""
        if self.is_empty and self._last is not None and _has_failed(self._newest):
            self._waiting.append(self._last)  # the disk failed under it, and is asked again by putting it again
        self._try()
        return self._newest

    async def settle(self, within_s: float) -> None:
        """Return once everything put so far is safe, or has failed to be, or after a time."""
        if (stored := self.stored()) is not None:
            await asyncio.wait([asyncio.ensure_future(stored)], timeout=within_s)

    @property
    def is_empty(self) -> bool:
        """The outbox took all."""
        return not self._waiting

    async def empty(self) -> None:
        """Return once the outbox took all."""
        while self._waiting:
            await asyncio.sleep(RETRY_S)
            self._try()

    def _try(self) -> None:
        while self._waiting:
            self._newest = self._outbox.put(self._waiting[0])
            if _has_failed(self._newest):
                return
            self._waiting.popleft()


def _has_failed(stored: Awaitable[None] | None) -> bool:
    return isinstance(stored, asyncio.Future) and stored.done() and not stored.cancelled() and bool(stored.exception())
