"""Whose a call is: the live one knows, the store remembers."""

from __future__ import annotations

from typing import Protocol

from server.feed.access import Owner
from server.log.contract import ChannelKey
from server.log.presence import Presence
from server.wire.ids import AgentId, TenantId


class LiveOwners(Protocol):
    """The live calls."""

    def agent_of(self, tenant_id: TenantId, conversation_id: str) -> tuple[bool, AgentId | None]:
        """Whether that call is live, and whose it is."""


class StoredOwners(Protocol):
    """The store."""

    async def agent_of(self, tenant_id: TenantId, conversation_id: str) -> tuple[bool, AgentId | None]:
        """Whether there is such a conversation, and whose it is."""


class CallDirectory:
    """Answers for the doors (`agent_of`) and for the feed (`owner`).

    Args:
        live: Asked first: it knows of a transfer before the store does.
        stored: Asked for calls that are over.
        presence: Knows agents' teams; None: nobody has one.
    """

    def __init__(self, live: LiveOwners, stored: StoredOwners, presence: Presence | None = None) -> None:
        self._live = live
        self._stored = stored
        self._presence = presence

    async def agent_of(self, tenant_id: TenantId, conversation_id: str) -> tuple[bool, AgentId | None]:
        """Whether there is such a call, and whose it is.

        Raises:
            Unavailable: It is not live, and the store does not answer.
        """
        found = self._live.agent_of(tenant_id, conversation_id)
        return found if found[0] else await self._stored.agent_of(tenant_id, conversation_id)

    async def owner(self, key: ChannelKey) -> Owner | None:
        """See `server.feed.access.Directory`."""
        kind, _, name = key.channel.partition(":")
        if kind == "agent":
            return Owner(AgentId(name), await self._team(key.tenant_id, AgentId(name)))
        is_known, agent_id = await self.agent_of(key.tenant_id, name)
        return Owner(agent_id, await self._team(key.tenant_id, agent_id)) if is_known else None

    async def _team(self, tenant_id: TenantId, agent_id: AgentId | None) -> str:
        if self._presence is None or agent_id is None:
            return ""
        return await self._presence.team_of(tenant_id, agent_id)
