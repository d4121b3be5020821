"""Tickets that any process of a fleet redeems: the identity is sealed into the ticket, and Redis remembers it as spent.

    issue (any process) ──▶ sealed identity ──▶ redeem (any process): seal, time, not spent here ──▶ not spent anywhere

Pure but for `spend`, which the composition root hands in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import cast

import msgspec

from server.auth.identity import Identity, Role
from server.auth.tickets import TICKET_TTL_S, Tickets
from server.wire.errors import TooLarge, Unauthorised
from server.wire.ids import AgentId, TenantId

MAX_TICKET_CHARS = 512
CLOCKS_APART_S = 30.0
"""The wall clocks of two processes may differ by so much."""
SPENT_FOR_S = 600.0
"""It is remembered for so long, by no wall clock, what was spent: one that is set back makes it look good again."""
_SEAL_BYTES = 16

Spend = Callable[[str], Awaitable[bool]]
"""Marks a digest as spent; False if it was already."""


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    nonce: bytes
    until_ms: int
    tenant_id: str
    agent_id: str | None
    roles: list[str]
    teams: list[str]
    expires_ms: int | None
    is_anonymous: bool


class FleetTickets(Tickets):
    """`Tickets` that need not be redeemed where they were issued.

    Args:
        ttl_s: Life of a ticket.
        wall_s: Wall clock; it alone is the same in all processes.

    Attributes:
        secrets: What seals are made with, the newest first; the same in all processes.
    """

    def __init__(self, *, ttl_s: float = TICKET_TTL_S, wall_s: Callable[[], float] = time.time) -> None:
        super().__init__(ttl_s=ttl_s)
        self.secrets: list[bytes] = [secrets.token_bytes(32)]
        self._wall_s = wall_s
        self._spent: dict[str, float] = {}

    def is_timely(self, until_ms: int) -> bool:
        """Whether what is good until then is good now.

        What ends later than anything that is issued now comes from a clock that is ahead, or was set back since: it
        would look good again when it is forgotten that it was spent.
        """
        return 0 < until_ms - self._wall_s() * 1000 <= (self.ttl_s + CLOCKS_APART_S) * 1000

    def issue(self, identity: Identity, now_s: float) -> str:
        """See `Tickets`.

        Raises:
            TooLarge: The identity has more teams than a ticket holds.
        """
        wall_ms = int(self._wall_s() * 1000)
        expires_s = identity.expires_s
        sealed = _Sealed(
            nonce=secrets.token_bytes(12),
            until_ms=wall_ms + int(self.ttl_s * 1000),
            tenant_id=identity.tenant_id,
            agent_id=identity.agent_id,
            roles=sorted(identity.roles),
            teams=sorted(identity.teams),
            expires_ms=None if expires_s is None else wall_ms + int((expires_s - now_s) * 1000),
            is_anonymous=identity.is_anonymous,
        )
        body = msgspec.msgpack.encode(sealed)
        ticket = seal(self.secrets[0], body)
        if len(ticket) > MAX_TICKET_CHARS:
            raise TooLarge("the identity does not fit into a ticket", field="teams")
        return ticket

    def redeem(self, ticket: str, now_s: float) -> Identity:
        """See `Tickets`; spent in this process afterwards, and in the others once it was `spend`ed."""
        wall_ms = int(self._wall_s() * 1000)
        try:
            sealed = msgspec.msgpack.decode(unseal(self.secrets, ticket), type=_Sealed)
        except (ValueError, msgspec.DecodeError):
            raise Unauthorised("the ticket is unknown, used or expired") from None
        digest = digest_of(ticket)
        for old in [old for old, until_s in self._spent.items() if until_s <= now_s]:
            del self._spent[old]
        if not self.is_timely(sealed.until_ms) or digest in self._spent:
            raise Unauthorised("the ticket is unknown, used or expired")
        self._spent[digest] = now_s + SPENT_FOR_S
        expires_s = None if sealed.expires_ms is None else now_s + (sealed.expires_ms - wall_ms) / 1000
        identity = Identity(
            tenant_id=TenantId(sealed.tenant_id),
            agent_id=AgentId(sealed.agent_id) if sealed.agent_id is not None else None,
            roles=cast("frozenset[Role]", frozenset(sealed.roles)),
            teams=frozenset(sealed.teams),
            expires_s=expires_s,
            is_anonymous=sealed.is_anonymous,
        )
        if identity.is_expired(now_s):
            raise Unauthorised("the ticket is unknown, used or expired")
        return identity


class FleetRedeemer:
    """Redeems a ticket once in the whole fleet.

    Args:
        tickets: Knows the seals.
        spend: Marks it in the memory that all processes share.
    """

    def __init__(self, tickets: FleetTickets, spend: Spend) -> None:
        self._tickets = tickets
        self._spend = spend

    async def redeem(self, ticket: str, now_s: float) -> Identity:
        """Whose ticket it is.

        Raises:
            Unauthorised: Unknown, used, expired, or its identity has expired.
            Unavailable: Whether it was used cannot be known now.
        """
        identity = self._tickets.redeem(ticket, now_s)
        if not await self._spend(digest_of(ticket)):
            raise Unauthorised("the ticket is unknown, used or expired")
        return identity


def digest_of(ticket: str) -> str:
    """What is remembered of a ticket."""
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()


def seal(secret: bytes, body: bytes, purpose: bytes = b"") -> str:
    """A body that nobody else can have made, as text; what was sealed for one purpose is worth nothing for another."""
    return base64.urlsafe_b64encode(_seal_of(secret, body, purpose) + body).decode().rstrip("=")


def unseal(secrets: Iterable[bytes], text: str, purpose: bytes = b"") -> bytes:
    """The body of `seal`.

    Raises:
        ValueError: None of these secrets sealed it for this purpose.
    """
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    found, body = data[:_SEAL_BYTES], data[_SEAL_BYTES:]
    if not any(hmac.compare_digest(found, _seal_of(secret, body, purpose)) for secret in secrets):
        raise ValueError("not sealed by this fleet")
    return body


def _seal_of(secret: bytes, body: bytes, purpose: bytes) -> bytes:
    # A ticket's body is a msgpack array, which no purpose begins like.
    return hmac.digest(secret, purpose + body, "sha256")[:_SEAL_BYTES]
