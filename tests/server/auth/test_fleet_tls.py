"""Processes that share a secret reach each other, and nobody else does."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager

import pytest

from server.auth.fleet_tls import FleetTls, certificate_of

SECRET, OTHER = bytes(32), bytes(31) + b"\1"


@asynccontextmanager
async def listening(context):
    def answer(_, writer):
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def said(port, context):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        return await reader.read()
    finally:
        writer.close()


def test_a_certificate_is_the_same_wherever_it_is_made():
    assert certificate_of(SECRET) == certificate_of(SECRET)
    assert certificate_of(SECRET)[0] != certificate_of(OTHER)[0]


async def test_processes_of_one_secret_reach_each_other():
    async with listening(FleetTls([SECRET]).server) as port:
        assert await said(port, FleetTls([SECRET]).client) == b"hello"


@pytest.mark.parametrize("client", [FleetTls([OTHER]).client, ssl.create_default_context()])
async def test_a_process_of_another_secret_is_not_believed(client):
    async with listening(FleetTls([OTHER[::-1]]).server) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await said(port, client)


async def test_a_secret_that_is_taken_up_later_replaces_what_is_served():
    mine = FleetTls([SECRET])
    mine.use([OTHER, SECRET])
    async with listening(mine.server) as port:
        assert await said(port, FleetTls([OTHER]).client) == b"hello"
        with pytest.raises(ssl.SSLCertVerificationError):
            await said(port, FleetTls([SECRET]).client)
    async with listening(FleetTls([SECRET]).server) as port:
        assert await said(port, mine.client) == b"hello"  # one that has not heard of the new secret yet
