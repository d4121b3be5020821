"""Who is signed in: an agent is present while one of its sockets follows its own channel.

    sub agent:anna ──▶ enter ──▶ present, in every tab once more ──▶ unsub, sign-out, cut ──▶ leave

One process knows by itself; several tell each other through `server.log.redis_presence`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from server.wire.ids import AgentId, TenantId


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed-in agent.

    Attributes:
        num_sockets: Tabs and desktops.
        team: The agent's team, empty without one.
    """

    num_sockets: int
    team: str = ""


class Presence(Protocol):
    """Registrations of sockets, and what they add up to. Used from the event loop."""

    def enter(self, tenant_id: TenantId, agent_id: AgentId, team: str) -> Callable[[], None]:
        """Register a socket; returns what removes it (idempotent)."""

    async def signed_in(self, tenant_id: TenantId) -> Mapping[AgentId, Signed]:
        """Who is there now. Raises `Unavailable` when that cannot be known."""

    async def team_of(self, tenant_id: TenantId, agent_id: AgentId) -> str:
        """The team with which an agent last signed in; empty if unknown."""


class LocalPresence:
    """`Presence` of one process."""

    def __init__(self) -> None:
        self._sockets: dict[tuple[TenantId, AgentId], int] = {}
        self._teams: dict[tuple[TenantId, AgentId], str] = {}

    def enter(self, tenant_id: TenantId, agent_id: AgentId, team: str) -> Callable[[], None]:
        """See `Presence`."""
        who = (tenant_id, agent_id)
        self._sockets[who] = self._sockets.get(who, 0) + 1
        self._teams[who] = team
        self.changed(tenant_id, agent_id)
        is_in = True

        def leave() -> None:
            nonlocal is_in
            if is_in:
                is_in = False
                self._sockets[who] -= 1
                if not self._sockets[who]:
                    del self._sockets[who]
                self.changed(tenant_id, agent_id)

        return leave

    def here(self) -> dict[tuple[TenantId, AgentId], Signed]:
        """Who is signed in at this process."""
        return {who: Signed(num, self._teams[who]) for who, num in self._sockets.items()}

    def changed(self, tenant_id: TenantId, agent_id: AgentId) -> None:
        """Somebody came or went; for those who tell others."""

    async def signed_in(self, tenant_id: TenantId) -> Mapping[AgentId, Signed]:
        """See `Presence`."""
        return {agent_id: signed for (tenant, agent_id), signed in self.here().items() if tenant == tenant_id}

    async def team_of(self, tenant_id: TenantId, agent_id: AgentId) -> str:
        """See `Presence`."""
        return self._teams.get((tenant_id, agent_id), "")
