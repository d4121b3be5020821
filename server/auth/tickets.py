"""Single-use tickets: how a browser proves on a socket who it is, without a token in the URL.

    POST /v1/tickets (bearer token) ──issue──▶ ticket ──first frame of the socket──▶ redeem ──▶ Identity

Pure, given `now_s`. A ticket lives in the memory of the process that issued it. Source: OPERATIONS d2.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Protocol

from server.auth.identity import Identity
from server.wire.errors import Overloaded, Unauthorised

TICKET_TTL_S = 60.0
MAX_TICKETS = 10_000
_TICKET_BYTES = 32


class Redeemer(Protocol):
    """Turns a ticket into the identity it was issued to."""

    def redeem(self, ticket: str, now_s: float) -> Identity | Awaitable[Identity]:
        """Raises `Unauthorised` when the ticket is not good, `Unavailable` when that cannot be known now."""


class Tickets:
    """Issues and redeems tickets.

    Only digests are kept, and looked up by digest: neither a memory dump nor the time a look-up takes tells a
    valid ticket.

    Args:
        ttl_s: Life of a ticket.
        max_tickets: Unredeemed ones at once.
    """

    def __init__(self, *, ttl_s: float = TICKET_TTL_S, max_tickets: int = MAX_TICKETS) -> None:
        self.ttl_s = ttl_s
        self._max_tickets = max_tickets
        self._open: OrderedDict[bytes, tuple[float, Identity]] = OrderedDict()  # in the order they expire

    def issue(self, identity: Identity, now_s: float) -> str:
        """A new ticket for this identity, to be used once within `ttl_s`.

        Raises:
            Overloaded: Too many unredeemed ones.
        """
        self._forget_expired(now_s)
        if len(self._open) >= self._max_tickets:
            raise Overloaded("too many tickets wait for their sockets")
        ticket = secrets.token_urlsafe(_TICKET_BYTES)
        self._open[_digest(ticket)] = (now_s + self.ttl_s, identity)
        return ticket

    def redeem(self, ticket: str, now_s: float) -> Identity:
        """Whose ticket it is; it is worth nothing afterwards.

        Raises:
            Unauthorised: Unknown, used, expired, or its identity has expired.
        """
        self._forget_expired(now_s)
        found = self._open.pop(_digest(ticket), None)
        if found is None or found[1].is_expired(now_s):
            raise Unauthorised("the ticket is unknown, used or expired")
        return found[1]

    def __len__(self) -> int:
        """Unredeemed tickets, expired ones included until the next call."""
        return len(self._open)

    def _forget_expired(self, now_s: float) -> None:
        while self._open:
            expires_s, _ = next(iter(self._open.values()))
            if expires_s > now_s:
                break
            self._open.popitem(last=False)


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()
