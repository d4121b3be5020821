"""The promise of the feed: after any number of cuts a client has exactly the log, or was told that it has not."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from server.feed import outlet, transport
from server.feed import socket as feed_socket
from server.feed.queue import QueueLimits
from server.log.contract import Event as LogEvent
from server.log.contract import EventLog, Position
from server.log.embedded import EmbeddedLog, LogLimits
from server.replay.feed_client import Event, FeedClient, Received, Subscribed
from server.wire.clock import Stamps
from server.wire.feed import CloseCode
from server.wire.publication import Payload
from tests.server.feed.harness import CALL, FeedServer, action, call, feed_server, transcript

CUTS = pytest.mark.parametrize("num_cuts", [30, pytest.param(200, marks=pytest.mark.slow)])
LINGER_S = 0.3
NUM_CLIENTS, NUM_CUTS = 20, 1000


@pytest.fixture(autouse=True)
def _short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (transport, outlet, feed_socket):
        monkeypatch.setattr(module, "LINGER_S", LINGER_S)


class Ledger:
    """What a client was given, checked as it comes: nothing twice, nothing missing unless it was told."""

    def __init__(self) -> None:
        self.state: dict[tuple[str, str], int] = {}
        self.position = Position("", 0)
        self.num_lost = 0
        self._is_snapshot = False

    def take(self, event: Event) -> None:
        if isinstance(event, Subscribed):
            self._is_snapshot = not event.recovered
            if event.is_lost:
                self.num_lost += 1
            if not event.recovered:
                self.state.clear()
                self.position = Position(event.position.epoch, 0)
        if not isinstance(event, Received):
            return
        publication = event.publication
        assert publication.ep == self.position.epoch
        if self._is_snapshot and event.is_replayed:
            assert publication.off > self.position.offset
        else:
            assert publication.off == self.position.offset + 1
        self.position = Position(publication.ep, publication.off)
        key = {"transcript": "utterance_id", "action": "id", "call": "conversation_id"}[publication.kind]
        self.state[publication.kind, publication.d[key]] = publication.off


async def publish(
    log: EventLog, rng: random.Random, done: asyncio.Event, max_words: int = 200, pause_s: float = 0.001
) -> None:
    number = 0
    while not done.is_set():
        number += 1
        payloads: list[Payload] = [
            transcript(number, is_final=False, revision=revision) for revision in range(rng.randrange(4))
        ]
        payloads.append(transcript(number, revision=9, text="word " * rng.randrange(max_words)))
        if rng.random() < 0.2:
            payloads.append(action(number))
        await log.append(CALL, [LogEvent(payload, Stamps()) for payload in payloads])
        await asyncio.sleep(pause_s)
    await log.append(CALL, [LogEvent(call("ended"), Stamps())])


async def cut_at_random_moments(server: FeedServer, seed: int, num_cuts: int, *, is_binary: bool = False) -> Ledger:
    rng = random.Random(seed)
    ledger = Ledger()
    done = asyncio.Event()
    publisher = asyncio.create_task(publish(server.log, rng, done))
    left, until_cut, cut_connection = num_cuts, 3, 0
    client = FeedClient(server.url, is_binary=is_binary, random_s=lambda limit: rng.uniform(0, limit / 500))
    await client.subscribe("call:1")
    async with client:
        async for event in client.events():
            ledger.take(event)
            until_cut -= 1
            if until_cut <= 0 and left and client._socket is not None and client.num_connections > cut_connection:
                left, until_cut, cut_connection = left - 1, rng.randrange(1, 40), client.num_connections
                if rng.random() < 0.5:
                    client._socket.transport.abort()
                else:
                    for socket in list(server.endpoint._sockets):
                        socket.cut(rng.choice([CloseCode.SHUTDOWN, CloseCode.SLOW, CloseCode.NO_PONG]), "drill")
            if not left:
                done.set()
            if isinstance(event, Received) and event.publication.kind == "call":
                break
    await publisher
    assert client.num_connections >= num_cuts
    return ledger


async def follow_and_be_cut(
    server: FeedServer, rng: random.Random, num_cuts: int, is_done: Callable[[], None]
) -> Ledger:
    """One of many clients: cuts itself, or has the server cut any socket, and follows to the end of the call."""
    ledger = Ledger()
    left, until_cut, cut_connection = num_cuts, rng.randrange(1, 10), 0
    client = FeedClient(server.url, random_s=lambda limit: rng.uniform(0, limit / 100))
    await client.subscribe("call:1")
    async with client:
        async for event in client.events():
            ledger.take(event)
            until_cut -= 1
            if until_cut <= 0 and left and client._socket is not None and client.num_connections > cut_connection:
                left, until_cut = left - 1, rng.randrange(1, 20)
                if rng.random() < 0.5 or not server.endpoint._sockets:
                    cut_connection = client.num_connections
                    client._socket.transport.abort()
                else:
                    rng.choice(list(server.endpoint._sockets)).cut(CloseCode.SHUTDOWN, "drill")
                if not left:
                    is_done()
            if isinstance(event, Received) and event.publication.kind == "call":
                break
    return ledger


@pytest.mark.slow
@pytest.mark.parametrize("max_recovery_entries", [20_000, 1], ids=["log", "log that forgets"])
async def test_a_thousand_cuts_of_twenty_clients_of_one_call(max_recovery_entries: int, tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, limits=LogLimits(max_recovery_entries=max_recovery_entries))
    await log.start()
    done, rng = asyncio.Event(), random.Random(11)
    still_cutting = NUM_CLIENTS

    def is_done() -> None:
        nonlocal still_cutting
        still_cutting -= 1
        if not still_cutting:
            done.set()

    async with feed_server(log=log) as server:
        publisher = asyncio.create_task(publish(log, rng, done, 20, 0.02))
        async with asyncio.timeout(120):
            ledgers = await asyncio.gather(
                *(
                    follow_and_be_cut(server, random.Random(seed), NUM_CUTS // NUM_CLIENTS, is_done)
                    for seed in range(NUM_CLIENTS)
                )
            )
        await publisher
        truth = await expected(log)
        assert [(ledger.position, ledger.state) for ledger in ledgers] == [truth] * NUM_CLIENTS
        assert (sum(ledger.num_lost for ledger in ledgers) == 0) == (max_recovery_entries > 1)
    await log.stop()


async def expected(log: EventLog) -> tuple[Position, dict[tuple[str, str], int]]:
    recovery = await log.recover(CALL, None)
    return recovery.position, {(entry.kind, entry.key): entry.position.offset for entry in recovery.snapshot}


@pytest.mark.parametrize("is_binary", [False, True], ids=["json", "msgpack"])
@CUTS
async def test_cut_at_random_a_client_has_exactly_the_log(num_cuts: int, is_binary: bool, tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    await log.start()
    async with feed_server(log=log) as server:
        ledger = await cut_at_random_moments(server, 7, num_cuts, is_binary=is_binary)
        assert (ledger.position, ledger.state) == await expected(log)
        assert ledger.num_lost == 0
    await log.stop()


@CUTS
async def test_cut_at_random_from_a_log_that_forgets_a_client_is_told(num_cuts: int, tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, limits=LogLimits(max_recovery_entries=15))
    await log.start()
    async with feed_server(log=log) as server:
        ledger = await cut_at_random_moments(server, 8, num_cuts)
        assert (ledger.position, ledger.state) == await expected(log)
        assert ledger.num_lost > 0
    await log.stop()


async def test_a_client_follows_through_a_restart_of_the_server(tmp_path: Path) -> None:
    ledger = Ledger()
    port = 0
    client: FeedClient | None = None
    async with contextlib.AsyncExitStack() as stack:
        for life in range(3):
            log = EmbeddedLog(tmp_path)
            await log.start()
            async with feed_server(log=log, port=port) as server:
                port = server.port
                if client is None:
                    client = FeedClient(server.url, random_s=lambda limit: limit / 50)
                    await client.subscribe("call:1")
                    await stack.enter_async_context(client)
                    events = client.events()
                await log.append(CALL, [LogEvent(transcript(life), Stamps())])
                async with asyncio.timeout(10):
                    async for event in events:
                        ledger.take(event)
                        if ("transcript", f"u{life}") in ledger.state:
                            break
                assert (ledger.position, ledger.state) == await expected(log)
            await log.stop()
    assert ledger.num_lost == 0


# slow readers

QUEUE = QueueLimits(max_bytes=64 * 1024)


async def stuck_client(server: FeedServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that authenticates, subscribes and then never reads again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    writer.write(
        b"GET /v1/feed HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    for message in [{"type": "auth", "ticket": server.ticket()}, {"type": "sub", "ch": "call:1"}]:
        data = json.dumps(message).encode()
        assert len(data) < 126
        writer.write(bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data)
    await reader.readuntil(b'"subscribed"')
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return reader, writer


def run_on(loop_name: str, main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop_name == "uvloop" else None) as runner:
        runner.run(main)


BOTH_LOOPS = pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
BOTH_SERVERS = pytest.mark.parametrize("is_direct", [True, False], ids=["direct", "asgi"])


@BOTH_LOOPS
@BOTH_SERVERS
def test_a_client_that_never_reads_is_cut_and_costs_a_bounded_amount(loop_name: str, is_direct: bool) -> None:
    async def main() -> None:
        async with feed_server(queue_limits=QUEUE, is_direct=is_direct) as server:
            _, writer = await stuck_client(server)
            (socket,) = server.endpoint._sockets
            most_bytes = 0
            number = 0
            while not socket._session.is_closed:
                number += 1
                assert number < 20_000, "the socket was never cut"
                server.log.append_now(CALL, transcript(number, text="x" * 2000))
                most_bytes = max(most_bytes, socket._queue.size_bytes)
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await server.endpoint._none_left.wait()
            assert 0 < most_bytes <= QUEUE.max_bytes
            assert len(socket._queue) == 0
            assert not server.log.sinks[CALL]
            assert b'feed_closed_total{code="3008"} 1.0' in server.metrics.render()
            writer.close()

    run_on(loop_name, main())


@BOTH_LOOPS
def test_a_slow_reader_loses_interims_first_then_is_told_to_come_back(loop_name: str) -> None:
    async def main() -> None:
        async with feed_server(queue_limits=QUEUE) as server:
            reader, writer = await stuck_client(server)
            (socket,) = server.endpoint._sockets
            number = 0
            while socket._queue.size_bytes < QUEUE.max_bytes * 0.4:
                number += 1
                server.log.append_now(CALL, transcript(number, text="x" * 2000))
                await asyncio.sleep(0)
            for revision in range(1, 100):
                server.log.append_now(CALL, transcript(0, is_final=False, revision=revision, text="x" * 1000))
            assert server.endpoint.num_sockets == 1  # interims alone never cut a reader
            assert socket._queue.num_coalesced > 80
            while not socket._session.is_closed:
                number += 1
                server.log.append_now(CALL, transcript(number, text="x" * 2000))
                await asyncio.sleep(0)
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            rest = b"".join([chunk async for chunk in chunks(reader)])
            assert rest.endswith(CloseCode.SLOW.to_bytes(2, "big") + b"too slow")
            writer.close()

    run_on(loop_name, main())


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(65536):
        yield data


async def test_a_stuck_client_does_not_hold_up_the_others() -> None:
    async with feed_server(queue_limits=QUEUE) as server:
        _, writer = await stuck_client(server)
        client = FeedClient(server.url)
        await client.subscribe("call:1")
        ledger = Ledger()
        done = asyncio.Event()
        publisher = asyncio.create_task(publish(server.log, random.Random(3), done, 8000))
        async with client:
            async for event in client.events():
                ledger.take(event)
                if server.endpoint.num_sockets == 1 and client._socket is not None:
                    done.set()
                if isinstance(event, Received) and event.publication.kind == "call":
                    break
        await publisher
        assert (ledger.position, ledger.state) == await expected(server.log)
        assert client.num_connections == 1
        writer.close()
