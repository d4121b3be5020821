"""A TCP proxy that can be slow, and that can be away: what a network or an overloaded server does to a connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

CHUNK_BYTES = 64 * 1024


class FaultProxy:
    """On loopback, before a port on loopback.

    Attributes:
        delay_s: What each chunk waits, either way.
        port: Where it listens.
    """

    def __init__(self, target_port: int) -> None:
        self.delay_s = 0.0
        self.port = 0
        self._target_port = target_port
        self._is_away = False
        self._server: asyncio.Server
        self._pipes: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        await self.go_away()

    async def go_away(self) -> None:
        """Cut every connection, and each new one at once."""
        self._is_away = True
        for task in tuple(self._pipes):
            task.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def come_back(self) -> None:
        self._is_away = False

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        try:
            if not self._is_away:
                there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
                try:
                    await self._first_of(self._pipe(reader, back), self._pipe(there, writer))
                finally:
                    back.close()
        except (OSError, asyncio.CancelledError):
            pass  # cut; whoever cancelled wants just that
        finally:
            self._pipes.discard(task)
            writer.close()

    @staticmethod
    async def _first_of(*works) -> None:
        tasks = [asyncio.create_task(work) for work in works]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def fault_proxy(target_port: int) -> AsyncIterator[FaultProxy]:
    proxy = FaultProxy(target_port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
