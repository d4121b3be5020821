"""What both doors ask of whoever knocks: who are you, and may you bring this call in?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from server.auth.identity import Identity
from server.auth.origin import OriginPolicy
from server.auth.passes import HEADER, Pass
from server.auth.rights import Resource, may, require
from server.auth.tokens import Authenticator
from server.ingest.websocket import CLOSE_POLICY, CLOSE_TRY_AGAIN, Scope, Socket
from server.wire.errors import CuelineError, Forbidden, Gone, Unauthorised
from server.wire.ids import AgentId, TenantId


class Owners(Protocol):
    """Knows whose a call is, live or over."""

    async def agent_of(self, tenant_id: TenantId, conversation_id: str) -> tuple[bool, AgentId | None]:
        """Whether there is such a call, and whose it is. Raises `Unavailable` when that cannot be known now."""


class Passes(Protocol):
    """Knows what another process of this server vouches for."""

    async def redeem(self, text: str) -> Pass:
        """The call that a source was let in to. Raises `Unauthorised`, or `Unavailable` when it cannot be known now."""


class Door:
    """Lets sources in.

    Args:
        authenticator: Knows identities.
        origins: Which web pages may connect; where nobody signs in, any other page could bring calls in.
        owners: Knows whose calls are.
        passes: Of sources that came to another process; None: there is no other.
        is_destroyed: Whether a tenant's key was destroyed: nothing of it is kept, and who brings calls in has to know.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        origins: OriginPolicy,
        owners: Owners,
        passes: Passes | None = None,
        is_destroyed: Callable[[TenantId], bool] = lambda _: False,
    ) -> None:
        self._authenticator = authenticator
        self._origins = origins
        self._owners = owners
        self._passes = passes
        self._is_destroyed = is_destroyed

    async def knock(self, socket: Socket) -> bool:
        """Whether the peer is known; one that is not has been told and closed."""
        try:
            if not self._origins.allows(_header(socket.scope, b"origin"), _header(socket.scope, b"host")):
                raise Forbidden("pages of this origin may not connect", field="Origin")
            if (text := _header(socket.scope, HEADER.encode())) is not None:
                if self._passes is None:
                    raise Unauthorised("there is no other process that could have let it in", field=HEADER)
                socket.admitted = await self._passes.redeem(text)
                return True
            authorization = authorization_of(socket.scope)
            await self._authenticator.prepare(authorization)
            self._authenticator.authenticate(authorization)
        except CuelineError as error:
            await socket.send_error(error)
            await socket.close(CLOSE_TRY_AGAIN if error.retryable else CLOSE_POLICY, error.code)
            return False
        return True

    async def admit(
        self, socket: Socket, tenant_id: str | None, agent_id: str | None, conversation_id: str
    ) -> tuple[Identity, AgentId | None]:
        """Identity and agent of a source that names its call.

        Args:
            socket: Where it knocked.
            tenant_id: Tenant that its start names, if any.
            agent_id: Agent that its start names; without one the call is the identity's own.
            conversation_id: The call.

        Raises:
            Unauthorised: The token has ended meanwhile.
            Forbidden: Another tenant than the token's, no right to bring calls in, or somebody else's call.
            Gone: The tenant's key was destroyed.
            Unavailable: Whose call it is cannot be known now.
        """
        if (admitted := socket.admitted) is not None:  # where it arrived, all the rest was asked
            if (tenant_id, conversation_id) != (admitted.tenant_id, admitted.conversation_id):
                raise Forbidden("the pass is for another call", field="conversation_id")
            self._check_key(admitted.tenant_id)
            agent = AgentId(agent_id) if agent_id is not None else None
            return Identity(admitted.tenant_id, None, frozenset({"telephony"})), agent
        identity = self._authenticator.authenticate(authorization_of(socket.scope), tenant_id)
        return identity, await self.enter(identity, agent_id, conversation_id)

    async def assign(self, socket: Socket, tenant_id: TenantId, agent_id: str) -> None:
        """Check that a source may give its call to an agent. Raises as `admit`."""
        if socket.admitted is not None:
            raise Forbidden("a pass lets audio in, nothing else", field="type")
        identity = self._authenticator.authenticate(authorization_of(socket.scope), tenant_id)
        require(identity, "ingest", Resource("call", identity.tenant_id, AgentId(agent_id)))

    async def enter(self, identity: Identity, agent_id: str | None, conversation_id: str) -> AgentId | None:
        """Agent of a call that an identity brings in.

        Args:
            identity: Who it is.
            agent_id: Agent that the call's start names; without one the call is the identity's own.
            conversation_id: The call.

        Raises:
            Forbidden: No right to bring calls in, or somebody else's call.
            Gone: The tenant's key was destroyed.
            Unavailable: Whose call it is cannot be known now.
        """
        owner = AgentId(agent_id) if agent_id else identity.agent_id
        require(identity, "ingest", Resource("call", identity.tenant_id, owner))
        self._check_key(identity.tenant_id)
        if not may(identity, "ingest", Resource("call", identity.tenant_id)):
            # Who may only bring in calls of their own must not take over another's by its name, and then read it.
            is_known, agent = await self._owners.agent_of(identity.tenant_id, conversation_id)
            if is_known:
                require(identity, "ingest", Resource("call", identity.tenant_id, agent))
        return owner

    def _check_key(self, tenant_id: TenantId) -> None:
        if self._is_destroyed(tenant_id):
            raise Gone("the key of this tenant was destroyed")


def authorization_of(scope: Scope) -> str | None:
    """Value of the `Authorization` header, None without one."""
    return _header(scope, b"authorization")


def _header(scope: Scope, wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            return bytes(value).decode("latin-1")
    return None
