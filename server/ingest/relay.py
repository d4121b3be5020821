"""A source that came to the wrong process: its socket is joined to one of the process that has the call.

    our own protocol   source ◀──frames──▶ this process ◀──frames──▶ owner
    another system's   source ◀─protocol─▶ this process ───audio, pass───▶ owner's `/v1/ingest/audio`

Two sides of a call may arrive in different processes, and a source that comes back may meet any of them; frames of our
own protocol pass through unread. Whoever is relayed is not relayed again: the owner of a moment ago answers busy, and
the source retries. An owner that says nothing for three seconds is taken for dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from server.auth.passes import HEADER, FleetPasses
from server.ingest.audio_client import AudioClient
from server.ingest.door import authorization_of
from server.ingest.legs import RelayedLeg
from server.ingest.websocket import CLOSE_TRY_AGAIN, Disconnected, Socket
from server.log.leases import Elsewhere
from server.wire.ids import ConversationId, TenantId
from server.wire.ingest import AudioStart

CONNECT_TIMEOUT_S = 1.0
START_TIMEOUT_S = 2.0
"""What an owner may take to answer a start: it may have to ask the store first."""
RELAYED = "x-cueline-relayed"
_ALIVE: Final[dict[str, Any]] = {"ping_interval": 1.0, "ping_timeout": 2.0, "close_timeout": 1.0}
"""A host that is cut off ends no connection, and TCP alone would take minutes to notice."""


class Relay:
    """Joins sockets to those of other processes.

    Args:
        context: How they are reached; None: there are no others.
        passes: Vouches for sources that were let in here; None: there are no others.
    """

    def __init__(self, context: ssl.SSLContext | None = None, passes: FleetPasses | None = None) -> None:
        self._context = context
        self._passes = passes

    @property
    def is_possible(self) -> bool:
        """There may be other processes."""
        return self._passes is not None

    async def open(self, elsewhere: Elsewhere, start: AudioStart, on_told: Callable[[], None]) -> RelayedLeg:
        """Bring a source that was let in here to the process that has its call.

        Args:
            elsewhere: Where that is.
            start: What the source is; names its tenant.
            on_told: Told each time more audio is safe, and when the connection ends.

        Raises:
            Elsewhere: It takes none.
            Unavailable: It cannot be reached, or cannot take it now.
            Refused: It does not want this source.
        """
        if self._passes is None or not elsewhere.address or start.tenant_id is None:
            raise elsewhere
        let_in = self._passes.issue(TenantId(start.tenant_id), ConversationId(start.conversation_id))
        client = AudioClient(
            f"wss://{elsewhere.address}",
            start,
            on_stored=on_told,
            patience_s=START_TIMEOUT_S,
            headers={RELAYED: "1", HEADER: let_in},
            ssl=self._context,
            proxy=None,
            **_ALIVE,
        )
        await client.open()
        return RelayedLeg(client)

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
        try:
            owner = await connect(
                f"wss://{elsewhere.address}{socket.scope['path']}",
                additional_headers=headers,
                ssl=self._context,
                compression=None,
                max_size=None,
                open_timeout=CONNECT_TIMEOUT_S,
                proxy=None,
                **_ALIVE,
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
