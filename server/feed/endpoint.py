"""`/v1/feed` as a plain ASGI application, to be mounted beside the web framework.

handshake: draining? origin? subprotocol? ──▶ FeedSocket.run ──▶ gone
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from server.auth.origin import OriginPolicy
from server.auth.tickets import Redeemer
from server.feed.access import Directory, EmptyDirectory
from server.feed.hub import Hub
from server.feed.outlet import Message
from server.feed.queue import QueueLimits
from server.feed.session import Limits
from server.feed.socket import Commands, FeedSocket, Rooms
from server.log.contract import EventLog
from server.log.presence import LocalPresence, Presence
from server.metrics import Metrics
from server.wire.feed import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK, CloseCode

MAX_SOCKETS = 5000


class FeedEndpoint:
    """All feed sockets of a process.

    Args:
        log: The event log, started.
        tickets: Redeems what `POST /v1/tickets` issued.
        metrics: Counters.
        directory: Whose channel is it.
        commands: What becomes of receipts, questions and replies.
        origins: Which web pages may connect.
        limits: Of each session.
        queue_limits: Of each outgoing queue.
        max_sockets: More are refused with 503.
        clock: Monotonic.
        presence: Told who is signed in.
    """

    def __init__(
        self,
        log: EventLog,
        tickets: Redeemer,
        metrics: Metrics,
        *,
        directory: Directory | None = None,
        commands: Commands | None = None,
        origins: OriginPolicy | None = None,
        limits: Limits | None = None,
        queue_limits: QueueLimits | None = None,
        max_sockets: int = MAX_SOCKETS,
        clock: Callable[[], float] = time.monotonic,
        presence: Presence | None = None,
    ) -> None:
        self._rooms = Rooms(
            log=log,
            hub=Hub(log, metrics, clock),
            tickets=tickets,
            directory=directory or EmptyDirectory(),
            commands=commands or Commands(),
            metrics=metrics,
            limits=limits or Limits(),
            queue_limits=queue_limits or QueueLimits(),
            clock=clock,
            presence=presence or LocalPresence(),
        )
        self._origins = origins or OriginPolicy()
        self._max_sockets = max_sockets
        self._sockets: set[FeedSocket] = set()
        self._is_draining = False
        self._none_left = asyncio.Event()
        self._none_left.set()

    @property
    def num_sockets(self) -> int:
        """Sockets open now."""
        return len(self._sockets)

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Serve one `websocket` scope."""
        if (await receive())["type"] != "websocket.connect":
            return
        if self._is_draining or len(self._sockets) >= self._max_sockets:
            await _refuse(scope, send, 503, "no room for another socket now; try again")
            return
        offered = scope.get("subprotocols") or []
        subprotocol = next((name for name in offered if name in (SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK)), None)
        if offered and subprotocol is None:
            await _refuse(scope, send, 400, f"offer {SUBPROTOCOL_JSON} or {SUBPROTOCOL_MSGPACK}")
            return
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        if not self._origins.allows(_header(scope, b"origin"), _header(scope, b"host")):
            # Refused after the handshake: a page sees the close code, but not the status of a failed handshake.
            self._rooms.metrics.feed_closed.labels(str(int(CloseCode.FORBIDDEN_ORIGIN))).inc()
            code = int(CloseCode.FORBIDDEN_ORIGIN)
            await send({"type": "websocket.close", "code": code, "reason": "pages of this origin may not connect"})
            return
        socket = FeedSocket(self._rooms, scope, send, is_binary=subprotocol == SUBPROTOCOL_MSGPACK)
        self._sockets.add(socket)
        self._none_left.clear()
        self._rooms.metrics.feed_sockets.inc()
        try:
            await socket.run(receive)
        finally:
            self._sockets.discard(socket)
            self._rooms.metrics.feed_sockets.dec()
            if not self._sockets:
                self._none_left.set()

    async def drain(self) -> None:
        """Refuse new sockets, close all with 3001 (come back), and wait until they are gone."""
        self._is_draining = True
        for socket in list(self._sockets):
            socket.cut(CloseCode.SHUTDOWN, "shutting down")
        await self._none_left.wait()


async def _refuse(scope: Message, send: Callable[[Message], Awaitable[None]], status: int, reason: str) -> None:
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1013 if status == 503 else 1002, "reason": reason})
        return
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


def _header(scope: Message, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None
