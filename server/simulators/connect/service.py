"""The part of Kinesis Video Streams that a consumer talks to, over HTTP; an ASGI application.

    POST /getDataEndpoint → {"DataEndpoint"}        POST /getMedia → a body that grows with the call

Errors have the shapes that the AWS client libraries know. Source: Kinesis Video Streams API reference.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import msgspec

from server.simulators.connect import media
from server.simulators.connect.faults import Fault
from server.simulators.connect.stream import SimulatedStream
from server.wire.errors import BadRequest

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger(__name__)

_JSON = [(b"content-type", b"application/json")]


class _Refusal(Exception):
    def __init__(self, code: str, status: int) -> None:
        super().__init__(code)
        self.code = code
        self.status = status


class KinesisVideoSimulator:
    """ASGI application.

    Args:
        faults: One for each `GetMedia` call, until there are no more.
        chunk_bytes: Cut the body into pieces of this size; 0 leaves it as the stream wrote it.
    """

    def __init__(self, faults: Iterator[Fault] | None = None, *, chunk_bytes: int = 0) -> None:
        self.streams: dict[str, SimulatedStream] = {}
        self.url = ""
        """Its own address, which `GetDataEndpoint` answers; set once it listens."""
        self.selectors: list[dict[str, Any]] = []
        """Start selectors of all `GetMedia` calls, in their order."""
        self.called = asyncio.Event()
        """Set with each `GetMedia` call."""
        self._faults = faults or iter(())
        self._chunk_bytes = chunk_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        body = bytearray()
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        try:
            request = self._request(scope, bytes(body))
            if scope["path"] == "/getDataEndpoint":
                await _answer(send, 200, {"DataEndpoint": self.url})
            elif scope["path"] == "/getMedia":
                await self._get_media(request, receive, send)
            else:
                raise _Refusal("UnknownOperationException", 404)
        except _Refusal as refusal:
            headers = [(b"x-amzn-errortype", refusal.code.encode())]
            await _answer(send, refusal.status, {"Message": refusal.code}, headers)

    def _request(self, scope: Scope, body: bytes) -> dict[str, Any]:
        headers = dict(scope["headers"])
        if not headers.get(b"authorization", b"").startswith(b"AWS4-HMAC-SHA256 "):
            raise _Refusal("NotAuthorizedException", 401)
        try:
            request = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            raise _Refusal("InvalidArgumentException", 400) from None
        if request.get("StreamARN") not in self.streams:
            raise _Refusal("ResourceNotFoundException", 404)
        return request

    async def _get_media(self, request: dict[str, Any], receive: Receive, send: Send) -> None:
        selector = request.get("StartSelector", {})
        self.selectors.append(selector)
        self.called.set()
        fault = next(self._faults, None)
        if fault is not None and fault.kind == "throttle":
            raise _Refusal("ClientLimitExceededException", 400)
        if fault is not None and fault.kind == "unavailable":
            raise _Refusal("ServiceUnavailable", 503)
        try:
            pieces = self.streams[request["StreamARN"]].read(selector)
        except BadRequest as error:
            raise _Refusal(error.message, 400) from None
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"video/webm")]})
        gone = asyncio.create_task(_disconnected(receive), name="get-media-gone")
        pump = asyncio.create_task(self._pump(pieces, fault, send), name="get-media")
        try:
            await asyncio.wait({gone, pump}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (gone, pump):
                task.cancel()
            await asyncio.gather(gone, pump, return_exceptions=True)
            await pieces.aclose()

    async def _pump(self, pieces: AsyncIterator[bytes], fault: Fault | None, send: Send) -> None:
        left = fault.after_bytes if fault is not None else None
        async for piece in pieces:
            if fault is not None and left is not None and len(piece) >= left:
                if fault.kind in ("cut", "stall"):  # the others happen between two elements
                    await self._write(send, piece[:left])
                break
            await self._write(send, piece)
            left = None if left is None else left - len(piece)
        match fault.kind if fault is not None else "":
            case "cut":
                return  # the server closes a connection whose body has no end
            case "stall":
                await asyncio.Event().wait()
            case "error":
                await self._write(send, media.head("1", 0.0, 0.0) + media.failure("INTERNAL_ERROR", 5000))
            case "garbage":
                await self._write(send, bytes(64))
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, data: bytes) -> None:
        size = self._chunk_bytes or max(1, len(data))
        for at in range(0, len(data), size):
            await send({"type": "http.response.body", "body": data[at : at + size], "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(
    send: Send, status: int, body: dict[str, Any], headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*_JSON, *(headers or [])]})
    await send({"type": "http.response.body", "body": msgspec.json.encode(body)})
