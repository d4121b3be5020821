"""What both doors ask of whoever knocks: who are you, and whose call is it?"""

from __future__ import annotations

from collections.abc import Callable

from server.auth import Identity
from server.ingest.websocket import CLOSE_POLICY, Scope, Socket
from server.wire.errors import CuelineError, Forbidden
from server.wire.ids import TenantId


async def identify(socket: Socket, authenticate: Callable[[Scope], Identity]) -> Identity | None:
    """Identity of an accepted socket; None after it was refused and closed."""
    try:
        return authenticate(socket.scope)
    except CuelineError as error:
        await socket.send_error(error)
        await socket.close(CLOSE_POLICY, error.code)
        return None


def tenant_of(identity: Identity, named: str | None) -> TenantId:
    """Tenant of a source.

    Without authentication a source may name any configured tenant (there is nothing to protect from); with it the
    tenant comes from the token.

    Raises:
        Forbidden: The message names another tenant than the token.
    """
    if named is None or named == identity.tenant_id:
        return TenantId(identity.tenant_id)
    if identity.is_anonymous:
        return TenantId(named)
    raise Forbidden("the token belongs to another tenant", field="tenant_id")
