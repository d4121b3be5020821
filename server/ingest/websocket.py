"""A thin ASGI WebSocket: frames in, typed messages and errors out.

One bad frame is answered by a typed error and hurts nobody else; what cannot go on closes with a code.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from server.auth.passes import Pass
from server.wire.codec import error_message, json_encoder
from server.wire.errors import CuelineError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger(__name__)

CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1001
CLOSE_BAD_DATA = 1007
CLOSE_POLICY = 1008
CLOSE_TOO_BIG = 1009
CLOSE_INTERNAL = 1011
CLOSE_TRY_AGAIN = 1013


class Disconnected(Exception):
    """The peer went away."""


class Socket:
    """One accepted WebSocket.

    Args:
        scope: ASGI scope of type `websocket`.
        receive: ASGI receive.
        send: ASGI send.

    Attributes:
        last_text: Newest text frame that came.
        admitted: The call that another process of this server let its source in to; None: it comes from outside.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.last_text = ""
        self.admitted: Pass | None = None
        self._receive = receive
        self._send = send
        self._is_open = False

    async def accept(self, subprotocol: str | None = None) -> None:
        """Take the connection request and accept it, at once.

        Raises:
            Disconnected: It was withdrawn.
        """
        if (await self._receive())["type"] != "websocket.connect":
            raise Disconnected
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol})
        self._is_open = True

    async def receive(self) -> str | bytes:
        """Next frame: text or binary.

        Raises:
            Disconnected: There is none.
        """
        event = await self._receive()
        if event["type"] != "websocket.receive":
            self._is_open = False
            raise Disconnected
        text = event.get("text")
        if text is not None:
            self.last_text = str(text)
            return self.last_text
        return bytes(event["bytes"])

    async def send(self, message: msgspec.Struct) -> None:
        """Send one JSON message; a peer that is gone is not an error here, the next `receive` tells."""
        await self.send_text(json_encoder.encode(message).decode())

    async def send_text(self, text: str) -> None:
        """Send one text frame, as `send`."""
        if self._is_open:
            try:
                await self._send({"type": "websocket.send", "text": text})
            except (OSError, RuntimeError):
                self._is_open = False

    async def send_error(self, error: BaseException) -> None:
        """Tell the client what a `CuelineError` says, or only `internal`, which is logged with its trace."""
        if not isinstance(error, CuelineError):
            log.error("socket handler failed", exc_info=error)
        await self.send(error_message(error))

    async def close(self, code: int, reason: str = "") -> None:
        """Close; does nothing if it is closed already."""
        if self._is_open:
            self._is_open = False
            try:
                await self._send({"type": "websocket.close", "code": code, "reason": reason[:120]})
            except (OSError, RuntimeError):
                log.debug("peer was gone before it could be told", extra={"code": code})
