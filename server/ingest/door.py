"""What both doors ask of whoever knocks: who are you, and may you bring this call in?"""

from __future__ import annotations

from server.auth.identity import Identity
from server.auth.rights import Resource, require
from server.auth.tokens import Authenticator
from server.ingest.websocket import CLOSE_POLICY, Scope, Socket
from server.wire.errors import CuelineError
from server.wire.ids import AgentId


class Door:
    """Lets sources in.

    Args:
        authenticator: Knows identities.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def knock(self, socket: Socket) -> bool:
        """Whether the peer is known; one that is not has been told and closed."""
        try:
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
    for name, value in scope["headers"]:
        if name == b"authorization":
            return bytes(value).decode("latin-1")
    return None
