"""The feed protocol for one socket: frames and instants in, effects out. Pure.

    frames ──receive──▶ ┐                          ┌ Send, Close                    done at once
    time ────on_time──▶ ├ Session: auth → ready → closed ┤ Redeem, Subscribe, Unsubscribe ─▶ the shell answers with
    shell ───answers──▶ ┘                          └ Receipt, Ask, Say                 authenticated, subscribed, …

A frame that is no message is answered by a typed error and the socket lives on; one that keeps sending them is
closed. Source: DESIGN 14, OPERATIONS d2, PROTOCOLS b8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from server.auth.identity import Identity
from server.auth.rate import TokenBucket
from server.wire import feed
from server.wire.codec import feed_decoder
from server.wire.errors import (
    BadMessage,
    BadRequest,
    CuelineError,
    Forbidden,
    NotFound,
    TooLarge,
    TooManyRequests,
    Unauthorised,
)
from server.wire.feed import CloseCode
from server.wire.ingest import ErrorMessage


@dataclass(frozen=True, slots=True)
class Limits:
    """What one socket may do.

    Attributes:
        max_frame_bytes: Longest frame in.
        max_subscriptions: Channels at once.
        max_messages_per_s: Steady rate of frames, and their burst.
        max_offences: Bad frames in a row before the socket is closed; one is forgiven every `forgive_s`.
        forgive_s: See there.
        auth_timeout_s: Time to the first valid `auth`.
        ping_interval_s: Time between pings.
        pong_timeout_s: Time to answer one.
    """

    max_frame_bytes: int = feed.MAX_FRAME_IN_BYTES
    max_subscriptions: int = feed.MAX_SUBSCRIPTIONS
    max_messages_per_s: float = feed.MAX_CLIENT_MESSAGES_PER_S
    max_offences: int = 20
    forgive_s: float = 1.0
    auth_timeout_s: float = feed.AUTH_TIMEOUT_S
    ping_interval_s: float = feed.PING_INTERVAL_S
    pong_timeout_s: float = feed.PONG_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message."""

    message: feed.Authenticated | feed.Unsubscribed | feed.Ping | feed.Pong | ErrorMessage


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket; nothing follows."""

    code: CloseCode
    reason: str


@dataclass(frozen=True, slots=True)
class Redeem:
    """Redeem this ticket, then call `authenticated` or `not_authenticated`."""

    ticket: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Check the right, recover and follow, then call `subscribed` or `not_subscribed`.

    `adds_calls`: the channels of the agent's calls are to be added as they begin, by `add`.
    """

    ch: str
    epoch: str | None
    offset: int | None
    adds_calls: bool = False


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Stop following."""

    ch: str


@dataclass(frozen=True, slots=True)
class Command:
    """A message for the rooms behind the feed, on a channel that is subscribed."""

    ch: str
    message: feed.Receipt | feed.Ask | feed.Say


Effect = Send | Close | Redeem | Subscribe | Unsubscribe | Command


class Phase(Enum):
    """Where a session is in its life."""

    NEW = "new"
    REDEEMING = "redeeming"
    READY = "ready"
    CLOSED = "closed"


class Session:
    """The state of one socket's protocol.

    Every method takes `now_s` (monotonic) and returns the effects to perform, in order. After a `Close` all
    methods return nothing.

    Args:
        now_s: When the socket was accepted.
        is_binary: MessagePack in binary frames instead of JSON in text frames.
        limits: What it may do.

    Attributes:
        identity: Who it is, None before authentication.
        channels: Channels subscribed.
    """

    def __init__(self, now_s: float, *, is_binary: bool = False, limits: Limits | None = None) -> None:
        self.limits = limits = limits or Limits()
        self.identity: Identity | None = None
        self.channels: set[str] = set()
        self._is_binary = is_binary
        self._pending: set[str] = set()
        self._phase = Phase.NEW
        self._rate = TokenBucket(limits.max_messages_per_s, limits.max_messages_per_s, now_s)
        self._patience = TokenBucket(1 / limits.forgive_s, limits.max_offences, now_s)
        self._auth_by_s = now_s + limits.auth_timeout_s
        self._ping_at_s = float("inf")
        self._pong_by_s = float("inf")

    @property
    def is_closed(self) -> bool:
        """No effects follow any more."""
        return self._phase is Phase.CLOSED

    @property
    def deadline_s(self) -> float:
        """When `on_time` must be called next, monotonic."""
        if self._phase is Phase.CLOSED:
            return float("inf")
        if self.identity is None:
            return self._auth_by_s
        expires_s = self.identity.expires_s if self.identity.expires_s is not None else float("inf")
        return min(self._ping_at_s, self._pong_by_s, expires_s)

    def receive(self, frame: str | bytes, now_s: float, wall_ms: float) -> list[Effect]:
        """A frame came in."""
        if self._phase is Phase.CLOSED:
            return []
        try:
            if not self._rate.take(now_s):
                raise TooManyRequests(f"more than {self.limits.max_messages_per_s:g} messages a second")
            message = self._decode(frame)
        except CuelineError as error:
            if self._phase is Phase.NEW:
                return self.close(CloseCode.BAD_REQUEST, "the first frame must be auth")
            return self._offence(error, now_s)
        return self._on_message(message, now_s, wall_ms)

    def on_time(self, now_s: float, wall_ms: float) -> list[Effect]:
        """The deadline may have come."""
        if self._phase is Phase.CLOSED:
            return []
        if self.identity is None:
            if now_s >= self._auth_by_s:
                return self.close(CloseCode.BAD_TOKEN, "no ticket in time")
            return []
        if self.identity.is_expired(now_s):
            return self.close(CloseCode.EXPIRED, "the identity has expired")
        if now_s >= self._pong_by_s:
            return self.close(CloseCode.NO_PONG, "no pong")
        if now_s >= self._ping_at_s:
            self._ping_at_s = now_s + self.limits.ping_interval_s
            # An unanswered ping keeps its own deadline: a later ping must not extend it.
            self._pong_by_s = min(self._pong_by_s, now_s + self.limits.pong_timeout_s)
            return [Send(feed.Ping(server_ms=wall_ms))]
        return []

    def authenticated(self, identity: Identity, now_s: float, wall_ms: float) -> list[Effect]:
        """The ticket is good. On a live socket it renews the identity, which must be the same person's."""
        if self._phase is Phase.CLOSED:
            return []
        if self.identity is None:
            self._ping_at_s = now_s + self.limits.ping_interval_s
        elif not self.identity.is_same_person(identity):
            return self._offence(Forbidden("this ticket is someone else's", field="ticket"), now_s)
        self.identity = identity
        self._phase = Phase.READY
        return [
            Send(
                feed.Authenticated(
                    tenant_id=identity.tenant_id,
                    agent_id=identity.agent_id,
                    server_ms=wall_ms,
                    ping_interval_s=self.limits.ping_interval_s,
                )
            )
        ]

    def not_authenticated(self, error: CuelineError, now_s: float) -> list[Effect]:
        """The ticket is not good. A live socket keeps the identity that it has."""
        if self._phase is Phase.CLOSED:
            return []
        if self.identity is None:
            return self.close(CloseCode.BAD_TOKEN, error.message)
        return self._offence(error, now_s)

    def subscribed(self, ch: str) -> bool:
        """The shell follows the channel. False: the client left meanwhile, and the shell must undo it."""
        if ch not in self._pending:
            return False
        self._pending.discard(ch)
        self.channels.add(ch)
        return True

    def not_subscribed(self, ch: str, error: CuelineError, now_s: float) -> list[Effect]:
        """The shell could not or must not subscribe."""
        self._pending.discard(ch)
        return self._offence(error, now_s, ch=ch)

    def add(self, ch: str) -> list[Effect]:
        """Subscribe to a call that this agent has now; nothing if it is subscribed."""
        if self._phase is Phase.CLOSED or ch in self.channels | self._pending:
            return []
        if len(self.channels | self._pending) >= self.limits.max_subscriptions:
            error = TooManyRequests(f"at most {self.limits.max_subscriptions} subscriptions", field="ch")
            return [Send(_told(error, ch))]
        self._pending.add(ch)
        return [Subscribe(ch, None, None)]

    def revoke(self, ch: str, reason: str) -> list[Effect]:
        """Take a channel away, such as after a transfer to another agent."""
        if self._phase is Phase.CLOSED or ch not in self.channels | self._pending:
            return []
        self.channels.discard(ch)
        self._pending.discard(ch)
        return [Unsubscribe(ch), Send(feed.Unsubscribed(ch=ch, reason=reason))]

    def refuse(self, error: CuelineError, ch: str | None = None) -> list[Effect]:
        """A command failed behind the feed."""
        return [] if self._phase is Phase.CLOSED else [Send(_told(error, ch))]

    def close(self, code: CloseCode, reason: str) -> list[Effect]:
        """End the session from our side."""
        if self._phase is Phase.CLOSED:
            return []
        self._phase = Phase.CLOSED
        return [Close(code, reason)]

    def _decode(self, frame: str | bytes) -> feed.ClientMessage:
        num_bytes = len(frame) if isinstance(frame, bytes) else _num_utf8_bytes(frame, self.limits.max_frame_bytes)
        if num_bytes > self.limits.max_frame_bytes:
            raise TooLarge(f"a frame may have {self.limits.max_frame_bytes} bytes")
        if self._is_binary:
            if not isinstance(frame, bytes):
                raise BadMessage("this subprotocol takes binary frames")
            return feed_decoder.msgpack(frame)
        if isinstance(frame, bytes):
            raise BadMessage("this subprotocol takes text frames")
        return feed_decoder.json(frame)

    def _on_message(self, message: feed.ClientMessage, now_s: float, wall_ms: float) -> list[Effect]:
        if self._phase is Phase.NEW:
            if not isinstance(message, feed.Auth):
                return self.close(CloseCode.BAD_REQUEST, "the first frame must be auth")
            self._phase = Phase.REDEEMING
            return [Redeem(message.ticket)]
        if self.identity is None:
            return self._offence(Unauthorised("wait for the answer to auth"), now_s)
        match message:
            case feed.Auth(ticket=ticket):
                return [Redeem(ticket)]
            case feed.Ping():
                return [Send(feed.Pong(server_ms=wall_ms))]
            case feed.Pong():
                self._pong_by_s = float("inf")
                return []
            case feed.Sub():
                return self._on_sub(message, now_s)
            case feed.Unsub(ch=ch):
                return self._on_unsub(ch, now_s)
            case feed.Receipt() | feed.Ask() | feed.Say():
                return self._on_command(message, now_s)

    def _on_sub(self, message: feed.Sub, now_s: float) -> list[Effect]:
        open_channels = self.channels | self._pending
        if message.ch in open_channels:
            return self._offence(BadRequest("already subscribed", field="ch"), now_s, ch=message.ch)
        if len(open_channels) >= self.limits.max_subscriptions:
            too_many = TooManyRequests(f"at most {self.limits.max_subscriptions} subscriptions", field="ch")
            return self._offence(too_many, now_s, ch=message.ch)
        if (message.ep is None) != (message.off is None):
            missing: Literal["ep", "off"] = "ep" if message.ep is None else "off"
            return self._offence(BadMessage("a position is both ep and off", field=missing), now_s, ch=message.ch)
        if message.follow and not message.ch.startswith("agent:"):
            not_here = BadRequest("only an agent's channel leads to calls", field="follow")
            return self._offence(not_here, now_s, ch=message.ch)
        self._pending.add(message.ch)
        return [Subscribe(message.ch, message.ep, message.off, message.follow)]

    def _on_unsub(self, ch: str, now_s: float) -> list[Effect]:
        effects = self.revoke(ch, "")
        return effects or self._offence(NotFound("not subscribed", field="ch"), now_s, ch=ch)

    def _on_command(self, message: feed.Receipt | feed.Ask | feed.Say, now_s: float) -> list[Effect]:
        ch = message.ch
        if ch is None:
            # A receipt may leave its call out while there is only one it can mean.
            calls = [channel for channel in self.channels if channel.startswith("call:")]
            if len(calls) != 1:
                return self._offence(BadMessage("which call? name its channel", field="ch"), now_s)
            ch = calls[0]
        if ch not in self.channels:
            return self._offence(Forbidden("not subscribed", field="ch"), now_s, ch=ch)
        return [Command(ch, message)]

    def _offence(self, error: CuelineError, now_s: float, *, ch: str | None = None) -> list[Effect]:
        if self._phase is Phase.CLOSED:
            return []
        if not self._patience.take(now_s):
            return self.close(CloseCode.BAD_REQUEST, "too many bad messages")
        return [Send(_told(error, ch))]


def _told(error: CuelineError, ch: str | None) -> ErrorMessage:
    return ErrorMessage(code=error.code, message=error.message, retryable=error.retryable, field=error.field, ch=ch)


def _num_utf8_bytes(text: str, enough: int) -> int:
    """Length as UTF-8, exact only as long as it may be below `enough`."""
    return len(text) if len(text) > enough else len(text.encode("utf-8", "surrogatepass"))
