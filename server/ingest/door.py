"""What both doors ask of whoever knocks: who are you, and may you bring this call in?"""

from __future__ import annotations

from server.auth.identity import Identity
from server.auth.origin import OriginPolicy
from server.auth.rights import Resource, require
from server.auth.tokens import Authenticator
from server.ingest.websocket import CLOSE_POLICY, Scope, Socket
from server.wire.errors import CuelineError, Forbidden
from server.wire.ids import AgentId


class Door:
    """Lets sources in.

    Args:
        authenticator: Knows identities.
        origins: Which web pages may connect; where nobody signs in, any other page could bring calls in.
    """

    def __init__(self, authenticator: Authenticator, origins: OriginPolicy) -> None:
        self._authenticator = authenticator
        self._origins = origins

    async def knock(self, socket: Socket) -> bool:
        """Whether the peer is known; one that is not has been told and closed."""
        try:
            if not self._origins.allows(_header(socket.scope, b"origin"), _header(socket.scope, b"host")):
                raise Forbidden("pages of this origin may not connect", field="Origin")
            self._authenticator.authenticate(authorization_of(socket.scope))
        except CuelineError as error:
            await socket.send_error(error)
            await socket.close(CLOSE_POLICY, error.code)
            return False
        return True

    def admit(self, socket: Socket, tenant_id: str | None, agent_id: str | None) -> tuple[Identity, AgentId | None]:
        """Identity and agent of a source that names its call.

        Args:
            socket: Where it knocked.
            tenant_id: Tenant that its start names, if any.
            agent_id: Agent that its start names; without one the call is the identity's own.

        Raises:
            Unauthorised: The token has ended meanwhile.
            Forbidden: Another tenant than the token's, or no right to bring calls in.
        """
        identity = self._authenticator.authenticate(authorization_of(socket.scope), tenant_id)
        owner = AgentId(agent_id) if agent_id else identity.agent_id
        require(identity, "ingest", Resource("call", identity.tenant_id, owner))
        return identity, owner


def authorization_of(scope: Scope) -> str | None:
    """Value of the `Authorization` header, None without one."""
    return _header(scope, b"authorization")


def _header(scope: Scope, wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            return bytes(value).decode("latin-1")
    return None
