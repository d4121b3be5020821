"""What an adapter is: who may connect, and what each frame of its protocol means. Pure.

    handshake ──greet──▶ Session        frame ──receive──▶ Begin · Audio · Pause · Reply · End · Close

An adapter knows its protocol and nothing else: no socket, no call, no recogniser. A new telephony system is a new file
with these two classes, and has to pass `tests/server/ingest/adapters/conformance.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qsl

from server.auth.identity import Identity
from server.ingest.audio import AudioFormat
from server.ingest.websocket import Scope
from server.wire.errors import BadMessage, CuelineError
from server.wire.ids import ID_PATTERN, AgentId, ConversationId

_ID = re.compile(ID_PATTERN)


@dataclass(frozen=True, slots=True)
class Handshake:
    """The request that opens a socket.

    Attributes:
        target: Path and query, as they were sent.
        headers: By lower-case name.
        query: Parameters of the query.
    """

    target: str
    headers: Mapping[str, str]
    query: Mapping[str, str]

    @classmethod
    def of(cls, scope: Scope) -> Handshake:
        """Read it from an ASGI scope."""
        headers = {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in scope["headers"]}
        query = bytes(scope.get("query_string", b"")).decode("latin-1")
        path = bytes(scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        return cls(f"{path}?{query}" if query else path, headers, dict(parse_qsl(query)))


@dataclass(frozen=True, slots=True)
class Begin:
    """A call begins.

    Attributes:
        identity: Who brings it in.
        conversation_id: The call.
        agent_id: Whose call, if the protocol says so.
        language: Expected language, if the protocol says so.
        customer_id: The telephony side's name for the customer, if the protocol says so.
        formats: One for each source: channels that arrive interleaved share one.
    """

    identity: Identity
    conversation_id: ConversationId
    formats: tuple[AudioFormat, ...]
    agent_id: AgentId | None = None
    language: str | None = None
    customer_id: str | None = None


@dataclass(frozen=True, slots=True)
class Audio:
    """Samples of one source, by its index in `Begin.formats`."""

    source: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this text frame."""

    text: str


@dataclass(frozen=True, slots=True)
class Pause:
    """No audio comes for a while: what was said last is complete."""


@dataclass(frozen=True, slots=True)
class End:
    """The call is over."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket."""

    code: int
    reason: str = ""


Effect = Begin | Audio | Reply | Pause | End | Close


class Session(Protocol):
    """One socket's protocol state."""

    def receive(self, frame: str | bytes) -> Sequence[Effect]:
        """Take one frame; effects are carried out in their order.

        Raises:
            CuelineError: The frame is wrong; the next one may be right.
        """

    def refuse(self, error: CuelineError) -> Sequence[Effect]:
        """What the peer is told of an error, in its own words."""


class Adapter(Protocol):
    """One protocol; one per process."""

    @property
    def name(self) -> str:
        """For metrics and logs."""

    async def greet(self, handshake: Handshake) -> Session:
        """Let a peer in.

        Raises:
            CuelineError: It is refused before its socket opens.
        """


def conversation_id(value: str, field: str) -> ConversationId:
    """Check an id that a peer chose.

    Raises:
        BadMessage: It cannot be one of ours.
    """
    if not _ID.match(value):
        raise BadMessage("is not an id: letters, digits and ._:@+- only, at most 128", field=field)
    return ConversationId(value)


def agent_id(value: object) -> AgentId | None:
    """An agent's id, or None for what cannot be one: a call is not refused for its label."""
    return AgentId(value) if isinstance(value, str) and _ID.match(value) else None


def customer_id(value: object) -> str | None:
    """A customer's id, or None, as `agent_id`."""
    return value if isinstance(value, str) and _ID.match(value) else None
