"""Passes: one process vouches to another that it let a source of a call in.

    issue (where a vendor's socket arrived) ──▶ sealed call ──▶ redeem (where the call lives): seal, time, not spent

A vendor's signature covers its own socket and cannot be shown a second time, so what is passed on is the decision. A
pass is good for one call and one socket, and is no ticket: their seals differ.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from server.auth.fleet_tickets import FleetTickets, Spend, digest_of, seal, unseal
from server.wire.errors import Unauthorised
from server.wire.ids import ConversationId, TenantId

HEADER = "x-cueline-pass"
_PURPOSE = b"pass"


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    nonce: bytes
    until_ms: int
    tenant_id: str
    conversation_id: str


@dataclass(frozen=True, slots=True)
class Pass:
    """What a source was let in to: one call."""

    tenant_id: TenantId
    conversation_id: ConversationId


class FleetPasses:
    """Issues and redeems them.

    Args:
        tickets: Has the secrets that all processes of the fleet share.
        spend: Marks a pass as used in the memory that they share.
        wall_s: Wall clock; it alone is the same in all processes.
    """

    def __init__(self, tickets: FleetTickets, spend: Spend, *, wall_s: Callable[[], float] = time.time) -> None:
        self._tickets = tickets
        self._spend = spend
        self._wall_s = wall_s

    def issue(self, tenant_id: TenantId, conversation_id: ConversationId) -> str:
        """A new pass for this call, as a header's value."""
        until_ms = int((self._wall_s() + self._tickets.ttl_s) * 1000)
        body = msgspec.msgpack.encode(_Sealed(secrets.token_bytes(12), until_ms, tenant_id, conversation_id))
        return seal(self._tickets.secrets[0], body, _PURPOSE)

    async def redeem(self, text: str) -> Pass:
        """What it lets in to; it is worth nothing afterwards.

        Raises:
            Unauthorised: No pass of this fleet, used, or expired.
            Unavailable: Whether it was used cannot be known now.
        """
        try:
            sealed = msgspec.msgpack.decode(unseal(self._tickets.secrets, text, _PURPOSE), type=_Sealed)
        except (ValueError, msgspec.DecodeError):
            raise Unauthorised("the pass is unknown, used or expired") from None
        if not self._tickets.is_timely(sealed.until_ms) or not await self._spend(digest_of(text)):
            raise Unauthorised("the pass is unknown, used or expired")
        return Pass(TenantId(sealed.tenant_id), ConversationId(sealed.conversation_id))
