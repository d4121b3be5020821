import asyncio
from typing import Any

import pytest

from server.auth.tokens import SharedKeyAuthenticator
from server.feed.socket import Commands
from server.log.contract import Position
from server.replay.feed_client import (
    ClockOffset,
    Connected,
    Disconnected,
    Event,
    FeedClient,
    Received,
    Refused,
    Subscribed,
    Unsubscribed,
)
from server.wire.errors import Unauthorised, Unavailable
from server.wire.feed import CloseCode
from tests.server.feed.harness import CALL, MemoryLog, feed_server, transcript


async def until(client: FeedClient, wanted: type[Event], num: int = 1) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(10):
        async for event in client.events():
            events.append(event)
            if sum(isinstance(other, wanted) for other in events) == num:
                break
    return events


async def test_what_happens_in_order() -> None:
    log = MemoryLog()
    log.append_now(CALL, transcript(1))
    async with feed_server(log=log) as server, FeedClient(server.url.replace("ws", "http")) as client:
        await client.subscribe("call:1")
        connected, subscribed, received = await until(client, Received)
        assert connected == Connected("car_service", "agent")
        assert subscribed == Subscribed("call:1", False, False, Position("e1", 1))
        assert isinstance(received, Received)
        assert received.is_replayed
        assert client.position("call:1") == Position("e1", 1)
        log.append_now(CALL, transcript(2))
        (live,) = await until(client, Received)
        assert isinstance(live, Received)
        assert (live.is_replayed, live.publication.off, live.publication.d["text"]) == (False, 2, "hello")
        assert abs(client.clock.offset_ms) < 1000
        await client.unsubscribe("call:1")
        assert client.position("call:1") is None


async def test_a_channel_wanted_later_and_a_receipt() -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def on_receipt(*arguments: Any) -> None:
        heard.put_nowait(arguments[2])

    async with feed_server(commands=Commands(on_receipt=on_receipt)) as server, FeedClient(server.url) as client:
        with pytest.raises(Unavailable):
            await client.receipt("call:1", "a1", "used")
        await until(client, Connected)
        await client.subscribe("call:1")
        await until(client, Subscribed)
        await client.receipt("call:1", "a1", "shown", painted_at_ms=1e12)
        receipt = await heard.get()
        assert (receipt.id, receipt.event) == ("a1", "shown")
        assert abs(receipt.painted_at_ms - 1e12) < 1000
        await client.ask("call:1", "how?")
        (refused,) = await until(client, Refused)
        assert isinstance(refused, Refused)
        assert refused.error.code == "not_found"


async def test_a_long_answer_is_replay_to_its_end() -> None:
    log = MemoryLog()
    for number in range(30):
        log.append_now(CALL, transcript(number, text="x" * 20_000))
    async with feed_server(log=log) as server, FeedClient(server.url) as client:
        await client.subscribe("call:1")
        events = await until(client, Received, 30)
        log.append_now(CALL, transcript(31))
        events += await until(client, Received)
        replayed = [event.is_replayed for event in events if isinstance(event, Received)]
        assert replayed == [True] * 30 + [False]


async def test_a_channel_taken_away_is_not_asked_for_again() -> None:
    async with feed_server() as server, FeedClient(server.url) as client:
        await client.subscribe("call:1")
        await until(client, Subscribed)
        (socket,) = server.endpoint._sockets
        socket._perform_now(socket._session.revoke("call:1", "transferred"))
        (event,) = await until(client, Unsubscribed)
        assert event == Unsubscribed("call:1", "transferred")
        assert client.position("call:1") is None


async def test_no_server_is_tried_again_and_again_unless_told_otherwise() -> None:
    async with FeedClient("127.0.0.1:1", random_s=lambda limit: 0.0) as client:
        events = await until(client, Disconnected, 3)
        assert [event.is_final for event in events if isinstance(event, Disconnected)] == [False] * 3
    async with FeedClient("127.0.0.1:1", is_reconnecting=False) as client:
        (event,) = await until(client, Disconnected)
        assert isinstance(event, Disconnected)
        assert event.is_final


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
async def test_a_server_that_dies_in_the_midst_of_a_ticket_is_tried_again(status: str) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 100\r\n\r\n{{".encode())
        writer.close()

    server = await asyncio.start_server(die, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, FeedClient(f"127.0.0.1:{port}", random_s=lambda _: 0.0) as client:
        assert all(isinstance(event, Disconnected) for event in await until(client, Disconnected, 2))


async def test_bad_credentials_end_it() -> None:
    authenticator = SharedKeyAuthenticator("k" * 32)
    async with feed_server(authenticator=authenticator) as server, FeedClient(server.url, token="nonsense") as client:
        with pytest.raises(Unauthorised):
            await until(client, Connected)


async def test_a_ticket_refused_twice_in_a_row_ends_it() -> None:
    async with feed_server() as server:
        server.tickets.redeem = lambda *_: (_ for _ in ()).throw(Unauthorised("no"))  # type: ignore[method-assign]
        async with FeedClient(server.url, random_s=lambda limit: 0.0) as client:
            events = [event async for event in client.events()]
        assert events == [
            Disconnected(CloseCode.BAD_TOKEN, "no", False),
            Disconnected(CloseCode.BAD_TOKEN, "no", True),
        ]


async def test_the_back_off_grows_to_its_cap() -> None:
    limits: list[float] = []
    async with FeedClient("127.0.0.1:1", random_s=lambda limit: limits.append(limit) or 0.0) as client:  # type: ignore[func-returns-value]
        await until(client, Disconnected, 9)
    assert limits[:8] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


async def test_kinds_and_messages_of_a_newer_server_are_ignored() -> None:
    log = MemoryLog()
    async with feed_server(log=log) as server, FeedClient(server.url) as client:
        await client.subscribe("call:1")
        await until(client, Subscribed)
        assert client._socket is not None
        for text in ['{"type":"hologram"}', '{"ch":"call:1","ep":"e1","off":1,"kind":"smell","t":{},"d":{}}']:
            await client._on_frame(text, client._socket, 0.0)
        assert client.position("call:1") == Position("e1", 1)
        log.append_now(CALL, transcript(1))
        assert isinstance((await until(client, Received))[-1], Received)


def test_the_quickest_exchange_tells_the_clock() -> None:
    clock = ClockOffset()
    assert clock.offset_ms == 0.0
    clock.add(1000.0, 6000.0, 1100.0)
    clock.add(2000.0, 7010.0, 2010.0)
    assert clock.offset_ms == 5005.0
