"""`POST /v1/tickets`: a bearer token, or nothing where nothing is configured, for a single-use socket ticket."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from server.auth.origin import OriginPolicy
from server.auth.rate import RateLimiter
from server.auth.tickets import Tickets
from server.auth.tokens import Authenticator
from server.wire.codec import DECODE_ERRORS, bad_message
from server.wire.errors import Forbidden, TooLarge
from server.wire.feed import TicketRequest, TicketResponse

MAX_BODY_BYTES = 4096
TICKETS_PER_S = 5.0
TICKETS_BURST = 50.0
"""A desktop that reconnects as fast as its back-off allows stays far below; a loop that hammers us does not."""

_decoder = msgspec.json.Decoder(TicketRequest)


class TicketDesk:
    """Identifies who asks and issues the ticket; the route around it only moves bytes.

    Args:
        authenticator: Who is it.
        tickets: Shared with the feed endpoint, which redeems them.
        origins: Which pages may ask.
        limiter: Tickets an identity may draw. Without authentication everyone is one identity, on this machine,
            and only `Tickets` bounds them.
        clock: Monotonic.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        tickets: Tickets,
        *,
        origins: OriginPolicy | None = None,
        limiter: RateLimiter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._authenticator = authenticator
        self._tickets = tickets
        self._origins = origins or OriginPolicy()
        self._limiter = limiter if limiter is not None else RateLimiter(TICKETS_PER_S, TICKETS_BURST)
        self._clock = clock

    def issue(
        self, body: bytes, *, authorization: str | None = None, origin: str | None = None, host: str | None = None
    ) -> TicketResponse:
        """Answer one request.

        Args:
            body: JSON `TicketRequest`, or empty.
            authorization: Header of that name.
            origin: Header of that name.
            host: Header of that name.

        Raises:
            CuelineError: `Forbidden` origin or tenant, `Unauthorised`, `BadMessage`, `TooLarge`,
                `TooManyRequests`, `Overloaded`.
        """
        if not self._origins.allows(origin, host):
            raise Forbidden("pages of this origin may not connect", field="Origin")
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(f"a ticket request may have {MAX_BODY_BYTES} bytes")
        try:
            request = _decoder.decode(body) if body.strip() else TicketRequest()
        except DECODE_ERRORS as error:
            raise bad_message(error, what="body") from None
        identity = self._authenticator.authenticate(authorization, request.tenant_id)
        now_s = self._clock()
        if not identity.is_anonymous:
            self._limiter.check((identity.tenant_id, identity.agent_id, identity.roles), now_s)
        return TicketResponse(ticket=self._tickets.issue(identity, now_s), expires_in_s=self._tickets.ttl_s)
