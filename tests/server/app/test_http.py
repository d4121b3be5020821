"""A peer that never says what it wants is sent away; one that does is served."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import uvicorn

from server.app.body import read_body
from server.app.http import PatientProtocol
from server.wire.errors import TimedOut


class Impatient(PatientProtocol):
    head_timeout_s = 0.2


async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.fixture
async def port():
    config = uvicorn.Config(answer, port=0, http=Impatient, lifespan="off", log_config=None, timeout_keep_alive=60)
    server = uvicorn.Server(config)
    server.config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield server.servers[0].sockets[0].getsockname()[1]
    await server.shutdown()


@contextlib.asynccontextmanager
async def dialled(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ended(reader) -> bool:
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):
            return await reader.read() == b""
    return True


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nX-Drip: a", b"GET /feed HTTP/1.1\r\nUpgrade: websocket\r\n"])
async def test_a_head_that_does_not_come_ends_the_connection(port, said):
    async with dialled(port) as (reader, writer):
        writer.write(said)
        assert await ended(reader)


@pytest.mark.parametrize("said", [b"\r\n", b"GET /again HTTP/1.1\r\nX-Drip: b"])
async def test_nor_may_the_second_request_drip(port, said):
    async with dialled(port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(20):
            assert b" 204 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        assert await ended(reader)


async def test_who_asks_in_time_may_ask_again(port):
    async with dialled(port) as (reader, writer):
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(20):
                assert b" 204 " in await reader.readuntil(b"\r\n\r\n")


class Dripping:
    async def stream(self):
        yield b"{"
        await asyncio.Event().wait()


async def test_a_body_that_drips_is_given_up():
    with pytest.raises(TimedOut, match="not complete"):
        await read_body(Dripping(), 10, timeout_s=0.01)
