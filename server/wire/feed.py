"""Messages of `/v1/feed`, both directions, and the codes it closes with.

First frame `auth`, then `sub`; publications follow as their channels' logs grow.

Source: DESIGN 14, OPERATIONS d2, PROTOCOLS b8.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Literal

import msgspec

from server.wire.ids import ExternalId

SUBPROTOCOL_JSON = "cueline.v1+json"
SUBPROTOCOL_MSGPACK = "cueline.v1+msgpack"

MAX_FRAME_IN_BYTES = 64 * 1024
MAX_FRAME_OUT_BYTES = 256 * 1024
MAX_SUBSCRIPTIONS = 20
MAX_CLIENT_MESSAGES_PER_S = 50
AUTH_TIMEOUT_S = 5.0
PING_INTERVAL_S = 15.0
PONG_TIMEOUT_S = 8.0
QUEUE_MAX_BYTES = 512 * 1024
QUEUE_COALESCE_AT = 0.5
QUEUE_DROP_INTERIMS_AT = 0.9


class CloseCode(IntEnum):
    """3000-3499 and 4000-4499: come back. 3500-3999 and 4500-4999: do not."""

    SHUTDOWN = 3001
    EXPIRED = 3005
    SLOW = 3008
    INSUFFICIENT_STATE = 3010
    NO_PONG = 3012
    STATE_INVALIDATED = 3014
    BAD_TOKEN = 3500
    BAD_REQUEST = 3501
    FORBIDDEN_ORIGIN = 3503


Channel = Annotated[str, msgspec.Meta(pattern=r"^(call|agent):[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}$(?!\n)")]


class TicketRequest(msgspec.Struct, frozen=True):
    """Body of `POST /v1/tickets`; may be empty. The identity comes from the `Authorization` header."""

    tenant_id: ExternalId | None = None


class TicketResponse(msgspec.Struct, frozen=True):
    """Answer to `POST /v1/tickets`: a ticket for one socket, to be used once and soon."""

    ticket: str
    expires_in_s: float


class Auth(msgspec.Struct, frozen=True, tag="auth"):
    """First frame: the single-use ticket from `POST /v1/tickets`."""

    ticket: Annotated[str, msgspec.Meta(max_length=512)]


class Sub(msgspec.Struct, frozen=True, tag="sub"):
    """Subscribe, with the last seen position if there is one.

    With `follow`, for an agent's channel, the server adds the channel of each of that agent's calls as it begins or is
    transferred here, each with its own `subscribed`, and takes it away when it is transferred on.
    """

    ch: Channel
    ep: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    off: Annotated[int, msgspec.Meta(ge=0)] | None = None
    follow: bool = False


class Unsub(msgspec.Struct, frozen=True, tag="unsub"):
    """Leave a channel."""

    ch: Channel


class Receipt(msgspec.Struct, frozen=True, tag="receipt"):
    """What became of an action on the agent's screen; `painted_at_ms` is T10 on the server's clock."""

    id: Annotated[str, msgspec.Meta(max_length=256)]
    event: Literal["shown", "used", "dismissed", "wrong"]
    painted_at_ms: float | None = None
    ch: Channel | None = None


class Say(msgspec.Struct, frozen=True, tag="say"):
    """The agent typed a reply to be translated and spoken."""

    ch: Channel
    text: Annotated[str, msgspec.Meta(max_length=2000)]


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """The agent asks the knowledge base; blanks alone are no question."""

    ch: Channel
    text: Annotated[str, msgspec.Meta(max_length=2000, pattern=r"\S")]


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Either side; answered by `pong`."""

    server_ms: float | None = None


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """Answer to `ping`; the server's carries its wall clock, so that the client learns its offset."""

    server_ms: float | None = None


ClientMessage = Auth | Sub | Unsub | Receipt | Say | Ask | Ping | Pong


class Authenticated(msgspec.Struct, frozen=True, tag="authenticated"):
    """Answer to `auth`: who you are, the server's clock, and how often it pings."""

    tenant_id: str
    agent_id: str | None
    server_ms: float
    ping_interval_s: float = PING_INTERVAL_S


class Subscribed(msgspec.Struct, frozen=True, tag="subscribed", omit_defaults=True):
    """Answer to `sub`.

    Attributes:
        ch: Channel.
        recovered: True if `tail` is everything after the position the client named, nothing lost.
        ep: Epoch now.
        off: Offset of the last publication included.
        snapshot: Where not recovered: the latest publication of every state, ascending offsets. Null otherwise.
        tail: Publications after the position, or after the snapshot.
        num_more: Publications of this answer that did not fit in its frame and follow as ordinary ones, before
            anything live.
    """

    ch: str
    recovered: bool
    ep: str
    off: int
    tail: list[msgspec.Raw]
    snapshot: list[msgspec.Raw] | None = None
    num_more: int = 0


class Unsubscribed(msgspec.Struct, frozen=True, tag="unsubscribed", omit_defaults=True):
    """The client left, or the server took the channel away (`reason`)."""

    ch: str
    reason: str = ""
