"""One application on one port: sockets by path, everything else to the web framework.

Sockets are plain ASGI callables beside the framework: a feed frame then costs no routing, no dependency injection and
no request object.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from litestar.types import ASGIApp

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)


class Application:
    """ASGI application.

    Args:
        sockets: Path to endpoint of each WebSocket.
        web: The framework's application for HTTP.
    """

    def __init__(self, sockets: Mapping[str, Endpoint], web: ASGIApp) -> None:
        self._sockets = dict(sockets)
        self._web = web

    @property
    def sockets(self) -> frozenset[str]:
        """Paths that are sockets."""
        return frozenset(self._sockets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch one connection. An endpoint that fails closes its own socket and nothing else."""
        if scope["type"] != "websocket":
            await self._web(scope, receive, send)  # type: ignore[arg-type]  # the framework spells its messages out
            return
        endpoint = self._sockets.get(scope["path"].rstrip("/"))
        if endpoint is None:
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before accept: the server answers 403
            return
        try:
            await endpoint(scope, receive, send)
        except Exception:
            # The path is ours, the query may hold a secret: only the path is logged.
            log.exception("socket endpoint failed", extra={"path": scope["path"]})
            await send({"type": "websocket.close", "code": 1011})
