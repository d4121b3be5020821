"""The socket under Deepgram's SDK: its documented extension point, `transport_factory`.

The SDK's own socket is the `websockets` library's old client, with compression on and no limit on how long a send may
hang. Ours is the new client: small frames leave as they are and at once, and a peer that takes nothing is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.protocol import State

SEND_TIMEOUT_S = 2.0
"""Source: OPERATIONS d2."""
_PING_EVERY_S = 5.0
"""A peer that answers no ping within this is gone, even while nobody speaks."""
_MAX_MESSAGE_BYTES = 1024 * 1024

_latest: ContextVar[Transport] = ContextVar("latest_transport")


class Transport:
    """One connection, opened by `open`; the SDK only makes the object.

    Args:
        url: With the SDK's query.
        headers: The SDK's, with the credentials.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = dict(headers)
        self._socket: ClientConnection | None = None

    @property
    def request_id(self) -> str:
        """What the vendor calls this connection; its support asks for it."""
        response = self._socket.response if self._socket is not None else None
        return response.headers.get("dg-request-id", "") if response is not None else ""

    async def open(self) -> None:
        """Connect.

        Raises:
            websockets.InvalidStatus: Refused with an HTTP status.
            OSError: Nobody is there.
        """
        agent = self._headers.pop("User-Agent", None)
        self._socket = await connect(
            self._url,
            additional_headers=self._headers,
            user_agent_header=agent,
            compression=None,
            open_timeout=None,  # the caller's
            ping_interval=_PING_EVERY_S,
            ping_timeout=_PING_EVERY_S,
            close_timeout=1.0,
            max_size=_MAX_MESSAGE_BYTES,
        )

    async def send(self, data: str | bytes) -> None:
        """Send a frame.

        Raises:
            TimeoutError: The peer takes nothing.
            websockets.ConnectionClosed: It is gone.
        """
        socket = self._socket
        assert socket is not None
        if isinstance(data, bytes) and socket.state is State.OPEN and socket.transport.get_write_buffer_size() == 0:
            # It takes what it is given. `Connection.send` would guard against fragments and a full buffer, of which
            # there are none here, 50 times a second and side: this is half of its time.
            socket.protocol.send_binary(data)
            socket.send_data()
            return
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send(data)

    async def recv(self) -> str | bytes:
        """Next frame."""
        assert self._socket is not None
        return await self._socket.recv()

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Frames until the connection is closed; raises `ConnectionClosedError` if that was not in order."""
        assert self._socket is not None
        async for frame in self._socket:
            yield frame

    async def close(self) -> None:
        """Close; returns within a second. Idempotent."""
        if self._socket is not None:
            await self._socket.close()

    def abort(self) -> None:
        """Drop the connection without a word."""
        if self._socket is not None:
            self._socket.transport.abort()


def make_transport(url: str, headers: Mapping[str, str]) -> Transport:
    """The factory that the SDK is given. It wants one for the process; `latest_transport` tells who made what."""
    transport = Transport(url, headers)
    _latest.set(transport)
    return transport


def latest_transport() -> Transport:
    """The transport that this task's last `connect` made."""
    return _latest.get()
