"""A real uvicorn server with the feed on it, a log in memory, and a client without manners."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import msgspec
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from server.auth.desk import TicketDesk
from server.auth.tickets import Tickets
from server.auth.tokens import AnonymousAuthenticator, Authenticator
from server.feed.endpoint import FeedEndpoint
from server.feed.transport import DirectProtocol
from server.log.contract import ChannelKey, Entry, Event, EventLog, Position, Recovery, Sink, ignore
from server.metrics import Metrics
from server.wire.clock import Stamps
from server.wire.codec import error_message, json_encoder
from server.wire.errors import CuelineError
from server.wire.ids import TenantId
from server.wire.publication import Action, CallState, Payload, Publication, Transcript, kind_of

TENANT = TenantId("car_service")
CALL = ChannelKey(TENANT, "call:1")


class MemoryLog:
    """The contract and nothing else. `keep` is how many entries recovery may go back."""

    def __init__(self, keep: int = 1_000_000) -> None:
        self.entries: dict[ChannelKey, list[Entry]] = defaultdict(list)
        self.epochs: dict[ChannelKey, str] = defaultdict(lambda: f"e{next(self._numbers)}")
        self.sinks: dict[ChannelKey, list[Sink]] = defaultdict(list)
        self.before_recover: Callable[[], object] = lambda: None
        self._numbers = itertools.count(1)
        self._keep = keep

    async def start(self) -> None: ...

    async def append(self, key: ChannelKey, events: Sequence[Event], memory: bytes = b"") -> tuple[Entry, ...]:
        return self.append_now(key, *[event.payload for event in events])

    def append_now(self, key: ChannelKey, *payloads: Payload) -> tuple[Entry, ...]:
        entries = tuple([self._add(key, payload) for payload in payloads])
        for sink in list(self.sinks[key]):
            sink(entries)
        return entries

    def _add(self, key: ChannelKey, payload: Payload) -> Entry:
        position = Position(self.epochs[key], len(self.entries[key]) + 1)
        kind = kind_of(payload)
        publication = Publication(
            ch=key.channel, ep=position.epoch, off=position.offset, kind=kind, t=Stamps(), d=payload
        )
        is_interim = isinstance(payload, Transcript) and not payload.is_final
        body = json_encoder.encode(publication)
        entry = Entry(position, kind, payload.key(), is_interim, body, time.monotonic())
        self.entries[key].append(entry)
        return entry

    async def recover(self, key: ChannelKey, after: Position | None) -> Recovery:
        entries = list(self.entries[key])
        position = Position(self.epochs[key], len(entries))
        self.before_recover()
        await asyncio.sleep(0)
        if (
            after is not None
            and after.epoch == position.epoch
            and len(entries) - self._keep <= after.offset <= len(entries)
        ):
            return Recovery(position, True, (), tuple(entries[after.offset :]))
        states = {(entry.kind, entry.key): entry for entry in entries}
        snapshot = sorted(states.values(), key=lambda entry: entry.position.offset)
        return Recovery(position, False, tuple(snapshot), ())

    async def read(self, key: ChannelKey, after: Position | None, limit: int) -> tuple[Entry, ...]:
        start = after.offset if after is not None else 0
        return tuple(self.entries[key][start : start + limit])

    def follow(self, key: ChannelKey, sink: Sink, lost: Callable[[], None] = ignore) -> Callable[[], None]:
        self.sinks[key].append(sink)
        return lambda: self.sinks[key].remove(sink)

    async def trim(self, key: ChannelKey) -> None:
        self.entries.pop(key, None)
        self.epochs.pop(key, None)

    async def channels(self) -> AsyncIterator[ChannelKey]:
        for key in list(self.entries):
            yield key

    async def stop(self) -> None: ...


def transcript(number: int, *, is_final: bool = True, text: str = "hello", revision: int = 1) -> Transcript:
    return Transcript(
        utterance_id=f"u{number}",
        revision=revision,
        speaker="customer",
        start_ms=number * 1000,
        end_ms=number * 1000 + 900,
        text=text,
        is_final=is_final,
    )


def action(number: int) -> Action:
    return Action(id=f"a{number}", revision=1, type="hint", title="Do", state="new", priority=5, ttl_ms=1000, body="it")


def call(state: str, agent_id: str | None = None) -> CallState:
    return CallState(conversation_id="1", state=state, agent_id=agent_id)  # type: ignore[arg-type]


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to pytest

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


class FeedServer:
    """The feed and its ticket route on a loopback port."""

    def __init__(self, endpoint: FeedEndpoint, desk: TicketDesk, tickets: Tickets, log: Any, metrics: Metrics):
        self.endpoint = endpoint
        self.desk = desk
        self.tickets = tickets
        self.log = log
        self.metrics = metrics
        self.port = 0
        self.server: _Server | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def ticket(self) -> str:
        return self.desk.issue(b"").ticket

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self.endpoint(scope, receive, send)
            return
        body = (await receive())["body"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        try:
            answer: Any = self.desk.issue(
                body, authorization=headers.get("authorization"), origin=headers.get("origin"), host=headers.get("host")
            )
            status = 201
        except CuelineError as error:
            answer, status = error_message(error), error.status
        await send({"type": "http.response.start", "status": status, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": msgspec.json.encode(answer)})


@contextlib.asynccontextmanager
async def feed_server(
    *,
    authenticator: Authenticator | None = None,
    log: EventLog | None = None,
    is_direct: bool = True,
    port: int = 0,
    **arguments: Any,
) -> AsyncIterator[FeedServer]:
    log = log or MemoryLog()
    tickets = Tickets()
    metrics = Metrics()
    desk = TicketDesk(authenticator or AnonymousAuthenticator(TENANT), tickets)
    app = FeedServer(FeedEndpoint(log, tickets, metrics, **arguments), desk, tickets, log, metrics)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        ws=DirectProtocol if is_direct else "websockets-sansio",
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="warning",
        timeout_graceful_shutdown=2,
    )
    server = app.server = _Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        await server.is_up.wait()
    app.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield app
    finally:
        server.should_exit = True
        await serving


class RawClient:
    """Sends what it is told to and reads what comes."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, message: dict[str, Any] | str | bytes) -> None:
        await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            message = json.loads(await self.socket.recv())
        assert isinstance(message, dict)
        return message

    async def auth(self, server: FeedServer) -> dict[str, Any]:
        await self.send({"type": "auth", "ticket": server.ticket()})
        return await self.receive()

    async def sub(self, ch: str = "call:1", **position: Any) -> dict[str, Any]:
        await self.send({"type": "sub", "ch": ch, **position})
        return await self.receive()

    async def closed(self) -> tuple[int, str]:
        """Read to the end; code and reason of the close."""
        async with asyncio.timeout(20):
            try:
                while True:
                    await self.socket.recv()
            except ConnectionClosed as closed:
                return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


@contextlib.asynccontextmanager
async def raw_client(server: FeedServer, **arguments: Any) -> AsyncIterator[RawClient]:
    defaults: dict[str, Any] = {"compression": None, "proxy": None, "ping_interval": None, "close_timeout": 1}
    async with connect(f"{server.url}/v1/feed", **(defaults | arguments)) as socket:
        yield RawClient(socket)
