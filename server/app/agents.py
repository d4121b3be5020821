"""REST over who is signed in: for supervisors their teams, for agents themselves."""

from __future__ import annotations

from typing import Any

from litestar import Request, get
from litestar.handlers import HTTPRouteHandler

from server.auth.identity import Identity
from server.auth.rights import Resource, may
from server.log.presence import Presence


def agent_handlers(presence: Presence) -> list[HTTPRouteHandler]:
    """Build the handler of `/v1/agents`."""

    @get("/v1/agents", access="identity", summary="Agents who are signed in, of those you may see.")
    async def agents(request: Request[Any, Any, Any]) -> dict[str, Any]:
        identity: Identity = request.scope["state"]["identity"]
        signed_in = await presence.signed_in(identity.tenant_id)
        return {
            "agents": [
                {"agent_id": agent_id, "team": signed.team, "sockets": signed.num_sockets}
                for agent_id, signed in sorted(signed_in.items())
                if may(identity, "list", Resource("agent", identity.tenant_id, agent_id, signed.team))
            ]
        }

    return [agents]
