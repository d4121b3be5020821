"""uvicorn's HTTP protocol, with a limit on how long a peer may take to say what it wants.

uvicorn closes a connection that is idle after an answer, but waits for ever for a request that has not come, or drips.
Some thousand of these take every file descriptor there is, and the next call finds none. The same limit covers the
handshake of a WebSocket, which begins as a request here.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_TIMEOUT_S = 10.0
"""Between the connection, or a request's first byte, and the end of its head."""


class PatientProtocol(HttpToolsProtocol):
    """One connection, until it is upgraded. Used from the event loop."""

    head_timeout_s = HEAD_TIMEOUT_S
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        is_between = self.cycle is not None and self.cycle.response_complete
        if is_between and self.timeout_keep_alive_task is None and self._head_timer is None:
            self._expect_head()  # bytes that begin no request end uvicorn's own wait as well

    def on_headers_complete(self) -> None:
        """See uvicorn: the head is complete."""
        self._cancel()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._cancel()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._late)

    def _cancel(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        self._head_timer = None
        self.transport.abort()
