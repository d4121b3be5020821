"""A follower of a log that a test can wait on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from server.log.contract import ChannelKey, Entry, EventLog

PATIENCE_S = 15.0


class Screen:
    """Follows a channel and waits for what it should get."""

    def __init__(self, log: EventLog, key: ChannelKey) -> None:
        self.seen: list[Entry] = []
        self.num_lost = 0
        self._more = asyncio.Event()
        self.end = log.follow(key, self._take, self._lose)

    @staticmethod
    def patience() -> asyncio.Timeout:
        """How long a real server may take before a test gives up."""
        return asyncio.timeout(PATIENCE_S)

    async def until(self, num: int) -> list[Entry]:
        async with self.patience():
            while len(self.seen) < num:
                await self._next()
        return self.seen

    async def until_epoch(self, epoch: str) -> bool:
        """Wait until something of this epoch came, or it was told that something is lost."""
        async with self.patience():
            while not self.num_lost and not any(entry.position.epoch == epoch for entry in self.seen):
                await self._next()
        return True

    async def until_lost(self) -> None:
        async with self.patience():
            while not self.num_lost:
                await self._next()

    async def _next(self) -> None:
        self._more.clear()
        await self._more.wait()

    def _take(self, entries: Sequence[Entry]) -> None:
        self.seen += entries
        self._more.set()

    def _lose(self) -> None:
        self.num_lost += 1
        self._more.set()
