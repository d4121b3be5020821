"""A client of `/v1/feed`: what `cueline feed`, `cueline replay` and the tests read the feed with.

    POST /v1/tickets ──▶ connect ──▶ auth ──▶ sub (with the last position) ──▶ publications
            ▲                                                                     │ cut
            └───────────────────────── back-off, full jitter ◀────────────────────┘

Every publication is yielded once; after a cut the client asks for what it missed and says whether it got it.
Source: DESIGN 14, OPERATIONS d3 (app reconnect).
"""

from __future__ import annotations

import asyncio
import http.client
import random
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from server.log.contract import Position
from server.wire import feed
from server.wire.clock import wall_ms
from server.wire.errors import BadRequest, CuelineError, Forbidden, NotFound, TooManyRequests, Unauthorised, Unavailable
from server.wire.feed import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK
from server.wire.ingest import ErrorMessage
from server.wire.publication import KINDS, Publication

RECONNECT_BASE_S = 0.25
RECONNECT_CAP_S = 10.0
LIVED_S = 5.0
"""A connection that lived shorter was no success: the back-off goes on where it was."""
REQUEST_TIMEOUT_S = 10.0
MAX_EVENTS = 1000
"""Events that wait for a consumer; then the socket is read no more, and the server sees a slow reader."""

_KNOWN_TYPES = frozenset({"authenticated", "subscribed", "unsubscribed", "ping", "pong", "error"})
_ERRORS: dict[int, type[CuelineError]] = {
    400: BadRequest,
    401: Unauthorised,
    403: Forbidden,
    404: NotFound,
    429: TooManyRequests,
}

ServerMessage = feed.Authenticated | feed.Subscribed | feed.Unsubscribed | feed.Ping | feed.Pong | ErrorMessage


class _Head(msgspec.Struct, frozen=True):
    """What tells an answer (`type`) from a publication (a position), and unknown ones from known ones."""

    type: str = ""
    ch: str = ""
    ep: str = ""
    off: int = 0
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Connected:
    """Authenticated; subscriptions follow."""

    tenant_id: str
    agent_id: str | None


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A channel is followed.

    Attributes:
        ch: The channel.
        had_position: The client named a position.
        recovered: Everything after that position follows. False with a position: publications were lost, and
            what follows is the latest of every state.
        position: Where the channel stood.
    """

    ch: str
    had_position: bool
    recovered: bool
    position: Position

    @property
    def is_lost(self) -> bool:
        """The client was told that it could not recover."""
        return self.had_position and not self.recovered


@dataclass(frozen=True, slots=True)
class Received:
    """A publication.

    Attributes:
        publication: Decoded; `d` is a dict.
        received_s: Monotonic time of its arrival.
        is_replayed: It came with the answer to a subscription, not live.
    """

    publication: Publication
    received_s: float
    is_replayed: bool


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """The server took a channel away, or refused it."""

    ch: str
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A typed error of the server."""

    error: ErrorMessage


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection ended; the client tries again unless `is_final`."""

    code: int
    reason: str
    is_final: bool = False


Event = Connected | Subscribed | Received | Unsubscribed | Refused | Disconnected


@dataclass(slots=True)
class _Channel:
    position: Position | None
    num_replays: int = 0


@dataclass(slots=True)
class ClockOffset:
    """Offset of the server's wall clock from ours, from the quickest of the last eight exchanges."""

    samples: list[tuple[float, float]] = field(default_factory=list)

    def add(self, sent_ms: float, server_ms: float, received_ms: float) -> None:
        """One exchange: sent and received by our clock, answered by the server's."""
        round_trip_ms = received_ms - sent_ms
        self.samples = [*self.samples[-7:], (round_trip_ms, server_ms - (sent_ms + received_ms) / 2)]

    @property
    def offset_ms(self) -> float:
        """Add this to our clock to get the server's; 0 before the first exchange."""
        return min(self.samples)[1] if self.samples else 0.0


class FeedClient:
    """Follows channels through cuts. Use as an async context manager and iterate over `events`.

    Args:
        url: Server, such as `ws://127.0.0.1:8080`; `http` and `https` are understood too.
        tenant_id: Tenant to ask for; None: the identity's own.
        token: Bearer token, None where the server has no authentication.
        is_binary: Speak MessagePack.
        is_reconnecting: Come back after a cut; else the first one ends `events`.
        random_s: `random_s(limit)` gives a back-off in [0, limit].

    Attributes:
        clock: The server's clock, for `receipt`.
        num_connections: Connections that got as far as authentication.
    """

    def __init__(
        self,
        url: str,
        *,
        tenant_id: str | None = None,
        token: str | None = None,
        is_binary: bool = False,
        is_reconnecting: bool = True,
        random_s: Callable[[float], float] = lambda limit: random.uniform(0.0, limit),
    ) -> None:
        self._base = urlsplit(url if "://" in url else f"ws://{url}")
        self._tenant_id = tenant_id
        self._token = token
        self._is_binary = is_binary
        self._is_reconnecting = is_reconnecting
        self._random_s = random_s
        self._channels: dict[str, _Channel] = {}
        self._asked_for: set[str] = set()
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue(MAX_EVENTS)
        self._socket: ClientConnection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._encoder = msgspec.msgpack.Encoder() if is_binary else msgspec.json.Encoder()
        codec = msgspec.msgpack if is_binary else msgspec.json
        self._head_decoder: Any = codec.Decoder(_Head)
        self._message_decoder: Any = codec.Decoder(ServerMessage)
        self._publication_decoder: Any = codec.Decoder(Publication)
        self.clock = ClockOffset()
        self.num_connections = 0

    async def __aenter__(self) -> FeedClient:
        """Start connecting in the background."""
        self._runner = asyncio.create_task(self._run(), name="feed client")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        assert self._runner is not None
        self._runner.cancel()
        await asyncio.gather(self._runner, return_exceptions=True)

    async def subscribe(self, ch: str, position: Position | None = None) -> None:
        """Follow a channel from now on, through all reconnects; from `position` on if given."""
        self._channels[ch] = _Channel(position)
        if self._socket is not None:
            await self._ask_for(ch)

    async def unsubscribe(self, ch: str) -> None:
        """Stop following."""
        if self._channels.pop(ch, None) is not None and self._socket is not None and ch in self._asked_for:
            self._asked_for.discard(ch)
            await self._send(feed.Unsub(ch=ch))

    def position(self, ch: str) -> Position | None:
        """Position after the last publication of this channel, None before the first answer."""
        channel = self._channels.get(ch)
        return channel.position if channel is not None else None

    async def receipt(
        self, ch: str, action_id: str, event: Literal["shown", "used", "dismissed", "wrong"], painted_at_ms: float = 0.0
    ) -> None:
        """Tell what became of an action. `painted_at_ms` is by our clock, 0 for an event that paints nothing.

        Raises:
            Unavailable: Not connected now.
        """
        painted_ms = painted_at_ms + self.clock.offset_ms if painted_at_ms else None
        await self._send(feed.Receipt(id=action_id, event=event, painted_at_ms=painted_ms, ch=ch))

    async def ask(self, ch: str, text: str) -> None:
        """Ask the knowledge base. Raises as `receipt`."""
        await self._send(feed.Ask(ch=ch, text=text))

    async def say(self, ch: str, text: str) -> None:
        """Have a reply spoken to the customer. Raises as `receipt`."""
        await self._send(feed.Say(ch=ch, text=text))

    async def events(self) -> AsyncIterator[Event]:
        """What happens, in order, until a final `Disconnected`.

        Raises:
            CuelineError: The server refused the credentials, or, without reconnecting, is not there.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, Disconnected) and event.is_final:
                return

    async def _run(self) -> None:
        attempt = 0
        num_bad_tickets = 0
        try:
            while True:
                was_connected, began_s = self.num_connections, time.monotonic()
                code, reason, is_permanent = await self._connection()
                if self.num_connections > was_connected:
                    num_bad_tickets = 0
                    if time.monotonic() - began_s >= LIVED_S:
                        attempt = 0
                # A ticket is fresh each time: one refusal may be a restart between the two requests.
                num_bad_tickets += code == feed.CloseCode.BAD_TOKEN
                is_terminal = 3500 <= code <= 3999 or 4500 <= code <= 4999
                if code == feed.CloseCode.BAD_TOKEN:
                    is_terminal = num_bad_tickets > 1
                is_final = is_terminal or is_permanent or not self._is_reconnecting
                await self._events.put(Disconnected(code, reason, is_final))
                if is_final:
                    return
                await asyncio.sleep(self._random_s(min(RECONNECT_CAP_S, RECONNECT_BASE_S * 2**attempt)))
                attempt = min(attempt + 1, 16)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            await self._events.put(error)

    async def _connection(self) -> tuple[int, str, bool]:
        """One connection, from ticket to end: close code, reason, and whether another try is pointless."""
        try:
            ticket = await asyncio.to_thread(self._get_ticket)
            subprotocol = SUBPROTOCOL_MSGPACK if self._is_binary else SUBPROTOCOL_JSON
            async with connect(
                self._url("ws", "/v1/feed"),
                subprotocols=[Subprotocol(subprotocol)],
                compression=None,
                max_size=2 * feed.MAX_FRAME_OUT_BYTES,
                proxy=None,
                ping_interval=None,  # the feed has its own pings
            ) as socket:
                try:
                    return await self._serve(socket, ticket)
                finally:
                    self._socket = None
        except InvalidStatus as error:
            status = error.response.status_code
            return 1006, f"the server refused the connection with status {status}", 400 <= status < 500
        except (OSError, InvalidHandshake, TimeoutError) as error:
            return 1006, f"the server cannot be reached: {error}", False
        except Unavailable as error:
            return 1006, error.message, False

    async def _serve(self, socket: ClientConnection, ticket: str) -> tuple[int, str, bool]:
        sent_ms = wall_ms()
        try:
            await socket.send(self._encode(feed.Auth(ticket=ticket)))
            while True:
                frame = await socket.recv()
                await self._on_frame(frame, socket, sent_ms)
        except ConnectionClosed as closed:
            frame_received = closed.rcvd
            if frame_received is None:
                return 1006, "the connection was lost", False
            return frame_received.code, frame_received.reason, False

    async def _on_frame(self, frame: str | bytes, socket: ClientConnection, sent_ms: float) -> None:
        received_s = time.monotonic()
        head: _Head = self._head_decoder.decode(frame)
        if not head.type:
            await self._on_publication(head, frame, received_s)
            return
        if head.type not in _KNOWN_TYPES:
            return  # of a newer server
        message: ServerMessage = self._message_decoder.decode(frame)
        match message:
            case feed.Authenticated():
                self.clock.add(sent_ms, message.server_ms, wall_ms())
                self.num_connections += 1
                self._socket = socket
                self._asked_for.clear()
                await self._events.put(Connected(message.tenant_id, message.agent_id))
                for ch in list(self._channels):
                    await self._ask_for(ch)
            case feed.Subscribed():
                await self._on_subscribed(message, received_s)
            case feed.Unsubscribed(ch=ch, reason=reason):
                if reason:
                    self._forget(ch)
                    await self._events.put(Unsubscribed(ch, reason))
            case feed.Ping():
                await self._send(feed.Pong())
            case feed.Pong():
                pass
            case ErrorMessage():
                if message.ch is not None and message.code in ("forbidden", "not_found"):
                    self._forget(message.ch)
                await self._events.put(Refused(message))

    async def _on_subscribed(self, message: feed.Subscribed, received_s: float) -> None:
        channel = self._channels.get(message.ch)
        if channel is None:
            return
        position = Position(message.ep, message.off)
        had_position = channel.position is not None
        await self._events.put(Subscribed(message.ch, had_position, message.recovered, position))
        for raw in (*(message.snapshot or ()), *message.tail):
            await self._put(self._head_decoder.decode(raw), raw, received_s, is_replayed=True)
        channel.position = position
        channel.num_replays = message.num_more

    async def _on_publication(self, head: _Head, frame: str | bytes, received_s: float) -> None:
        channel = self._channels.get(head.ch)
        if channel is None:
            return
        is_replayed = channel.num_replays > 0
        channel.num_replays -= is_replayed
        await self._put(head, frame, received_s, is_replayed=is_replayed)
        channel.position = Position(head.ep, head.off)

    async def _put(self, head: _Head, body: Any, received_s: float, *, is_replayed: bool) -> None:
        if head.kind in KINDS:  # others are of a newer server
            await self._events.put(Received(self._publication_decoder.decode(body), received_s, is_replayed))

    def _forget(self, ch: str) -> None:
        self._channels.pop(ch, None)
        self._asked_for.discard(ch)

    async def _ask_for(self, ch: str) -> None:
        """Subscribe once a connection, whether it was wanted before the connection was there or after."""
        channel = self._channels.get(ch)
        if channel is None or ch in self._asked_for:
            return
        self._asked_for.add(ch)
        position = channel.position
        await self._send(
            feed.Sub(ch=ch) if position is None else feed.Sub(ch=ch, ep=position.epoch, off=position.offset)
        )

    async def _send(self, message: feed.ClientMessage) -> None:
        if self._socket is None:
            raise Unavailable("the feed is not connected")
        try:
            await self._socket.send(self._encode(message))
        except ConnectionClosed:
            raise Unavailable("the feed was cut") from None

    def _encode(self, message: feed.ClientMessage) -> str | bytes:
        body = self._encoder.encode(message)
        return body if self._is_binary else body.decode()

    def _get_ticket(self) -> str:
        """Ask for a ticket; blocks, so call it in a thread."""
        body = msgspec.json.encode(feed.TicketRequest(tenant_id=self._tenant_id))
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url("http", "/v1/tickets"), body, headers, method="POST")
        # No proxy of the environment: the server is usually on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=REQUEST_TIMEOUT_S) as response:
                return msgspec.json.decode(response.read(), type=feed.TicketResponse).ticket
        except urllib.error.HTTPError as error:
            with error:
                raise _http_error(error) from None
        except (urllib.error.URLError, http.client.HTTPException, msgspec.MsgspecError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise Unavailable(f"no ticket from {self._url('http', '')}: {reason}") from None

    def _url(self, scheme: Literal["ws", "http"], path: str) -> str:
        is_secure = self._base.scheme in ("wss", "https")
        return urlunsplit((scheme + "s" * is_secure, self._base.netloc, self._base.path.rstrip("/") + path, "", ""))


def _http_error(error: urllib.error.HTTPError) -> CuelineError:
    try:
        told = msgspec.json.decode(error.read(), type=ErrorMessage)
        message, name = told.message, told.field
    except (http.client.HTTPException, msgspec.MsgspecError, OSError):
        message, name = f"the server answered {error.code}", None
    if error.code >= 500 or error.code == 429:
        return Unavailable(message)
    return _ERRORS.get(error.code, BadRequest)(message, field=name)
