"""Many readers in a process of their own, so that the server's CPU time is the server's alone.

Commands on standard input, one a line:

    open NAME PORT PATH NUM [CHANNEL TICKET…]   open sockets; with tickets authenticate and subscribe to CHANNEL,
                                                where `*` becomes the socket's number                     → ready
    expect NAME BYTES                           wait until the sockets of NAME got so many bytes in all   → done
    delays NAME                                 since `t8`, of every publication that NAME got, in ms     → a JSON list
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

import uvloop

HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def text_frame(message: dict[str, str]) -> bytes:
    """A short text frame, masked with zeros."""
    data = json.dumps(message).encode()
    assert len(data) < 126
    return bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data


class Readers:
    """The sockets of one server: counts what they get, and notes when it came; parses only when asked."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[float, bytes]] = []
        self._num_bytes = 0
        self._enough = asyncio.Event()

    def count(self, num_bytes: int) -> None:
        """So many bytes more came."""
        self._num_bytes += num_bytes
        if self._num_bytes >= 0:
            self._enough.set()

    async def expect(self, num_bytes: int) -> None:
        """Wait until so many bytes came since the last call."""
        self._num_bytes -= num_bytes
        if self._num_bytes < 0:
            self._enough.clear()
        await self._enough.wait()


class Reader(asyncio.Protocol):
    """One socket: handshake, then `hello`, and `opened` is set when `answer` has come."""

    def __init__(self, readers: Readers, path: str, hello: bytes, answer: bytes) -> None:
        self._readers = readers
        self._path = path
        self._hello = hello
        self._answer = answer
        self._head = b""
        self.opened = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport
        transport.write(HANDSHAKE % self._path.encode())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self.opened.is_set():
            self._readers.count(len(data))
            self._readers.arrivals.append((time.time() * 1000, data))
            return
        self._head += data
        if self._hello and b"\r\n\r\n" in self._head:
            self._transport.write(self._hello)  # type: ignore[attr-defined]
            self._hello = b""
        if self._answer in self._head:
            self.opened.set()


async def main() -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=2**22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    swarms: dict[str, Readers] = {}
    while line := (await commands.readline()).decode().split():
        match line:
            case ["open", name, port, path, num, *subscription]:
                readers = swarms[name] = Readers()
                for number in range(int(num)):
                    hello, answer = b"", b"\r\n\r\n"
                    if subscription:
                        channel, *tickets = subscription
                        hello = text_frame({"type": "auth", "ticket": tickets[number]})
                        hello += text_frame({"type": "sub", "ch": channel.replace("*", str(number))})
                        answer = b'"snapshot"'
                    reader = Reader(readers, path, hello, answer)
                    await loop.create_connection(lambda reader=reader: reader, "127.0.0.1", int(port))
                    async with asyncio.timeout(10):
                        await reader.opened.wait()
                print("ready", flush=True)
            case ["expect", name, num_bytes]:
                async with asyncio.timeout(60):
                    await swarms[name].expect(int(num_bytes))
                swarms[name].arrivals.clear()
                print("done", flush=True)
            case ["delays", name]:
                found = [
                    at_ms - float(t8)
                    for at_ms, data in swarms[name].arrivals
                    for t8 in re.findall(rb'"t8":([0-9.]+)', data)
                ]
                print(json.dumps(found), flush=True)


uvloop.run(main())
