"""A WebSocket client that costs next to nothing, so that the load generator does not take the machine from the server.

It does what a load needs: whole text frames both ways, an answer to pings, an end that is told. A general client takes
ten times as long for a frame, and a load is read in a hundred thousand of them. What is sent can be made beforehand.
Source: RFC 6455.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

CONNECT_TIMEOUT_S = 30.0

OnText = Callable[[bytes, float], None]
"""Takes the body of a text frame and the monotonic time at which it arrived."""


def text_frame(body: bytes) -> bytes:
    """A text frame of a client, ready to be written."""
    return Frame(Opcode.TEXT, body).serialize(mask=True)


class LoadSocket(asyncio.Protocol):
    """One connection; made by `connect`.

    Attributes:
        closed: Done when the connection ends, with the close code, 1006 where there was none.
    """

    def __init__(self, url: str, on_text: OnText) -> None:
        self._handshake: ClientProtocol | None = ClientProtocol(parse_uri(url))
        self._on_text = on_text
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[int] = loop.create_future()

    @classmethod
    async def connect(cls, url: str, on_text: OnText) -> LoadSocket:
        """Open a connection to `ws://host:port/path`.

        Raises:
            OSError: Nobody listens, or the answer is no WebSocket's; also as `TimeoutError`.
        """
        address = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, socket = await loop.create_connection(lambda: cls(url, on_text), address.hostname, address.port)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await socket._opened
        return socket

    def send(self, body: bytes) -> None:
        """Send a text frame."""
        self.send_frame(text_frame(body))

    def send_frame(self, frame: bytes) -> None:
        """Send a frame that was made beforehand."""
        assert self._transport is not None
        self._transport.write(frame)

    async def close(self) -> None:
        """Close and wait for the end."""
        if self._transport is not None and not self.closed.done():
            self._transport.write(Frame(Opcode.CLOSE, (1000).to_bytes(2, "big")).serialize(mask=True))
        await asyncio.wait([self.closed])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert self._handshake is not None
        self._transport = cast("asyncio.Transport", transport)
        self._handshake.send_request(self._handshake.connect())
        self._transport.write(b"".join(self._handshake.data_to_send()))

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if not self._opened.done():
            self._opened.set_exception(error or ConnectionError("closed before it was open"))
        if not self.closed.done():
            self.closed.set_result(1006)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._handshake is not None:
            data = self._open(data)
        received_s = time.monotonic()
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while end - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if start + length > end:
                break
            self._on_frame(data[at], data[start : start + length], received_s)
            at = start + length
        self._rest = data[at:]

    def _open(self, data: bytes) -> bytes:
        """Finish the handshake; what came behind it belongs to frames."""
        assert self._handshake is not None
        head, found, rest = (self._rest + data).partition(b"\r\n\r\n")
        if not found:
            self._rest = head
            return b""
        self._rest = b""
        self._handshake.receive_data(head + found)
        if self._handshake.handshake_exc is not None:
            self._opened.set_exception(ConnectionError(str(self._handshake.handshake_exc)))
        else:
            self._opened.set_result(None)
        self._handshake = None
        return rest

    def _on_frame(self, first: int, body: bytes, received_s: float) -> None:
        assert self._transport is not None
        if first == 0x80 | Opcode.TEXT:
            self._on_text(body, received_s)
        elif first == 0x80 | Opcode.PING:
            self._transport.write(Frame(Opcode.PONG, body).serialize(mask=True))
        elif first == 0x80 | Opcode.CLOSE:
            if not self.closed.done():
                self.closed.set_result(int.from_bytes(body[:2], "big") or 1005)
            self._transport.close()
        else:
            raise AssertionError(f"a frame that no server of ours sends: {first:#x}")
