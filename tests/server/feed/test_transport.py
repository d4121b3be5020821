"""What the short way in makes of a stream of bytes is what uvicorn alone makes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from server.feed.transport import MAX_WAITING_MESSAGES, DirectProtocol
from tests.examples import examples

MAX_BYTES = 70_000
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_closed = False
        self.is_paused = False
        self.num_pauses = 0

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_paused = True
        self.num_pauses += 1

    def resume_reading(self) -> None:
        self.is_paused = False


def begun(kind: type[WebSocketsSansIOProtocol], application: Any) -> tuple[WebSocketsSansIOProtocol, FakeTransport]:
    """A connection whose handshake was asked for."""
    config = uvicorn.Config(
        application,
        ws=kind,
        ws_max_size=MAX_BYTES,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        log_config=None,
    )
    config.load()
    protocol, transport = kind(config, ServerState(), {}), FakeTransport()
    protocol.connection_made(transport)
    protocol.data_received(REQUEST)
    return protocol, transport


async def talk(kind: type[WebSocketsSansIOProtocol], chunks: list[bytes], *, is_slow: bool = False) -> Any:
    """Messages that the application got, bytes that were written, and whether reading was paused."""
    got: list[dict[str, Any]] = []
    accepted, go = asyncio.Event(), asyncio.Event()

    async def application(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        accepted.set()
        await go.wait()
        while not got or got[-1]["type"] == "websocket.receive":
            got.append(await receive())

    protocol, transport = begun(kind, application)
    await accepted.wait()
    if not is_slow:
        go.set()
    handshake = len(transport.written)
    for chunk in chunks:
        if not transport.is_closed:
            protocol.data_received(chunk)
    was_paused = transport.is_paused
    go.set()
    protocol.connection_lost(None)
    await asyncio.wait(protocol.tasks)
    return got, bytes(transport.written[handshake:]), was_paused


def masked(opcode: Opcode, body: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, body, fin).serialize(mask=True)


FRAMES = {
    "text": masked(Opcode.TEXT, "grüezi".encode()),
    "nothing": masked(Opcode.BINARY, b""),
    **{f"{size} bytes": masked(Opcode.BINARY, b"x" * size) for size in (125, 126, 127, 65_535, 65_536)},
    "ping": masked(Opcode.PING, b"are you there"),
    "pieces": masked(Opcode.TEXT, b"one", fin=False) + masked(Opcode.PING, b"") + masked(Opcode.CONT, b"two"),
    "half": masked(Opcode.TEXT, b"half", fin=False),
}
ENDS = {
    "none": b"",
    "closed": masked(Opcode.CLOSE, (1000).to_bytes(2, "big")) + b"more",
    "no text": masked(Opcode.TEXT, b"\xff"),
    "too large": masked(Opcode.TEXT, b"x" * (MAX_BYTES + 1)),
    "far too large": b"\x81\xff" + b"\xff" * 8 + bytes(4),
    "no beginning": masked(Opcode.CONT, b"alone"),
    "bare": Frame(Opcode.TEXT, b"bare").serialize(mask=False),
    "reserved bits": b"\xf1\x80\x00\x00\x00\x00",
    "long ping": b"\x89\xfe\x01\x00" + bytes(260),
    "cut off": masked(Opcode.TEXT, b"cut off")[:-1],
}
AFTER = masked(Opcode.TEXT, b"after")
CUTS = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.sampled_from(list(FRAMES)), max_size=6), st.sampled_from(list(ENDS)), CUTS, st.booleans())
def test_the_application_hears_what_uvicorn_alone_would_tell_it(
    frames: list[str], end: str, sizes: list[int], goes_on: bool
) -> None:
    whole = [
        part for part in (*(FRAMES[name] for name in frames), ENDS[end], AFTER * (goes_on and end != "cut off")) if part
    ]
    stream, chunks = b"".join(whole), list[bytes]()
    for size in (*sizes, len(stream)):
        chunks.append(stream[:size])
        stream = stream[size:]
    # uvicorn drops what came in one piece with an error behind it, so it is given frame after frame.
    plain = asyncio.run(talk(WebSocketsSansIOProtocol, whole))
    direct = asyncio.run(talk(DirectProtocol, [chunk for chunk in chunks if chunk]))
    assert direct[:2] == plain[:2]


@pytest.mark.parametrize("num_waiting", [MAX_WAITING_MESSAGES - 1, MAX_WAITING_MESSAGES])
def test_a_peer_is_not_read_while_messages_wait(num_waiting: int) -> None:
    chunks = [masked(Opcode.TEXT, b"x")] * num_waiting
    got, _, was_paused = asyncio.run(talk(DirectProtocol, chunks, is_slow=True))
    assert was_paused == (num_waiting == MAX_WAITING_MESSAGES)
    assert len(got) == num_waiting + 1


def test_what_an_application_sends_leaves_in_order_and_before_its_close() -> None:
    async def written(kind: type[WebSocketsSansIOProtocol]) -> bytes:
        async def application(_: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            for text in ("one", "x" * 200):
                await send({"type": "websocket.send", "text": text})
            await send({"type": "websocket.send", "bytes": b"y" * 70_000})
            await send({"type": "websocket.send", "text": "last"})
            await send({"type": "websocket.close", "code": 1000})

        protocol, transport = begun(kind, application)
        await asyncio.wait(protocol.tasks)
        return bytes(transport.written).partition(b"\r\n\r\n")[2]

    plain, direct = (asyncio.run(written(kind)) for kind in (WebSocketsSansIOProtocol, DirectProtocol))
    assert direct == plain
