"""The writing end of one socket: takes packets while the peer reads, tells when it does not.

DirectOutlet    writes frames to the transport while it has room (`transport.DirectProtocol`)
AsgiOutlet      sends ASGI messages from a task of its own, under any other server
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from server.feed.outgoing import Outgoing, Packet
from server.feed.transport import BATCH_BYTES, EXTENSION, LINGER_S, DirectProtocol

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Source = Callable[[], Packet | None]


class Outlet(Protocol):
    """Where a socket's packets go."""

    def offer(self, publications: Outgoing, is_binary: bool) -> bool:
        """Write them now, ahead of what the source holds. False: there may be no room for all, queue them."""

    def wake(self) -> None:
        """The source has something."""

    def close(self, code: int, reason: str) -> None:
        """Send nothing more but this."""

    async def stop(self) -> None:
        """The socket is gone; end what still runs."""


def outlet_for(
    scope: Message, send: Callable[[Message], Awaitable[None]], source: Source, on_shutdown: Callable[[], None]
) -> Outlet:
    """The best outlet that the server offers for this connection."""
    extension = scope.get("extensions", {}).get(EXTENSION)
    if extension is not None:
        return DirectOutlet(extension["connection"], source, on_shutdown)
    return AsgiOutlet(send, source)


class DirectOutlet:
    """Writes whole frames while the transport has room.

    Args:
        connection: The connection.
        source: Next packet to write, None if nothing waits.
        on_shutdown: Called when the server shuts down.
    """

    def __init__(self, connection: DirectProtocol, source: Source, on_shutdown: Callable[[], None]) -> None:
        self._connection = connection
        self._source = source
        connection.on_writable = self.wake
        connection.on_shutdown = on_shutdown

    def offer(self, publications: Outgoing, is_binary: bool) -> bool:
        """See `Outlet`."""
        if not self._connection.can_write:
            return False
        frames = publications.frames(is_binary)
        if len(frames) > BATCH_BYTES:
            return False
        self._connection.write_frame(frames)
        return True

    def wake(self) -> None:
        """See `Outlet`."""
        while self._connection.can_write:
            packet = self._source()
            if packet is None:
                return
            self._connection.write_frame(packet.frame)

    def close(self, code: int, reason: str) -> None:
        """See `Outlet`."""
        self._connection.close_now(code, reason)

    async def stop(self) -> None:
        """See `Outlet`."""
        self._connection.on_writable = None
        self._connection.on_shutdown = None


class AsgiOutlet:
    """Sends ASGI messages; a `send` that does not return is the peer's back-pressure.

    Args:
        send: ASGI's.
        source: Next packet to send, None if nothing waits.
    """

    def __init__(self, send: Callable[[Message], Awaitable[None]], source: Source) -> None:
        self._send = send
        self._source = source
        self._something = asyncio.Event()
        self._writer = asyncio.create_task(self._write(), name="feed writer")
        self._closer: asyncio.Task[None] | None = None

    def offer(self, publications: Outgoing, is_binary: bool) -> bool:
        """See `Outlet`; only the task sends."""
        return False

    def wake(self) -> None:
        """See `Outlet`."""
        self._something.set()

    def close(self, code: int, reason: str) -> None:
        """See `Outlet`."""
        if self._closer is None:
            self._closer = asyncio.create_task(self._close(code, reason), name="feed closer")

    async def stop(self) -> None:
        """See `Outlet`."""
        tasks = [task for task in (self._writer, self._closer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self) -> None:
        try:
            while True:
                await self._something.wait()
                self._something.clear()
                while (packet := self._source()) is not None:
                    data = {"bytes": packet.body} if packet.is_binary else {"text": packet.text}
                    await self._send({"type": "websocket.send", **data})
        except OSError:
            pass  # the peer is gone, which `receive` tells too (ASGI: send raises a subclass of OSError)
        except Exception:
            logger.exception("a feed writer failed")
            self.close(1011, "internal error")

    async def _close(self, code: int, reason: str) -> None:
        self._writer.cancel()
        await asyncio.wait([self._writer])
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
