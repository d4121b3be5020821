"""A source that came to the wrong process: its socket is joined to one of the process that has the call.

    source ◀──frames──▶ this process ◀──frames──▶ owner

Two sides of a call may arrive in different processes, and a source that comes back may meet any of them; frames pass
through unread. Whoever is relayed is not relayed again: the owner of a moment ago answers busy, and the source retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from server.ingest.door import authorization_of
from server.ingest.websocket import CLOSE_TRY_AGAIN, Disconnected, Socket
from server.log.leases import Elsewhere

CONNECT_TIMEOUT_S = 1.0
RELAYED = "x-cueline-relayed"


class Relay:
    """Joins sockets to those of other processes.

    Args:
        context: How to reach them with TLS; None: without.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context

    async def join(self, socket: Socket, elsewhere: Elsewhere) -> None:
        """Serve a socket, whose newest frame is its start, through the call's owner until one of both ends it.

        A source whose owner cannot be reached is sent away with a code that invites it back.
        """
        try:
            await self._join(socket, elsewhere)
        except Elsewhere as error:
            await socket.send_error(error)
            await socket.close(CLOSE_TRY_AGAIN, error.code)

    async def _join(self, socket: Socket, elsewhere: Elsewhere) -> None:
        if not elsewhere.address or any(name == RELAYED.encode() for name, _ in socket.scope["headers"]):
            raise elsewhere
        headers = {RELAYED: "1"}
        if (authorization := authorization_of(socket.scope)) is not None:
            headers["Authorization"] = authorization
        scheme = "ws" if self._context is None else "wss"
        try:
            owner = await connect(
                f"{scheme}://{elsewhere.address}{socket.scope['path']}",
                additional_headers=headers,
                ssl=self._context,
                compression=None,
                max_size=None,
                open_timeout=CONNECT_TIMEOUT_S,
                ping_interval=None,
                proxy=None,
            )
        except (OSError, TimeoutError, InvalidHandshake):
            raise elsewhere from None
        async with owner:
            await owner.send(socket.last_text)
            await self._pump(socket, owner)

    async def _pump(self, socket: Socket, owner: ClientConnection) -> None:
        there = asyncio.create_task(self._there(socket, owner), name="relay-there")
        back = asyncio.create_task(self._back(socket, owner), name="relay-back")
        try:
            await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (there, back):
                task.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
        await socket.close(owner.close_code or CLOSE_TRY_AGAIN, owner.close_reason or "")

    @staticmethod
    async def _there(socket: Socket, owner: ClientConnection) -> None:
        with contextlib.suppress(Disconnected, ConnectionClosed):
            while True:
                await owner.send(await socket.receive())

    @staticmethod
    async def _back(socket: Socket, owner: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in owner:
                if isinstance(frame, str):
                    await socket.send_text(frame)
