"""Whose channel is it: what the rights table needs to know before it can answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from server.auth.rights import Resource
from server.log.contract import ChannelKey
from server.wire.ids import AgentId


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a call belongs to now.

    Attributes:
        agent_id: The agent; None while nobody's.
        team: That agent's team; empty if unknown.
    """

    agent_id: AgentId | None
    team: str = ""


class Directory(Protocol):
    """Knows who owns live and ended calls, and who is in which team."""

    async def owner(self, key: ChannelKey) -> Owner | None:
        """Owner of a `call:` channel, or the team of an `agent:` channel's agent; None if unknown."""


class EmptyDirectory:
    """Knows nobody: then only the anonymous agent and administrators reach a call."""

    async def owner(self, key: ChannelKey) -> Owner | None:
        """See `Directory`."""
        return None


async def resource_of(directory: Directory, key: ChannelKey) -> Resource:
    """The channel as a resource of the rights table."""
    owner = await directory.owner(key)
    team = owner.team if owner is not None else ""
    kind, _, name = key.channel.partition(":")
    if kind == "agent":
        return Resource("agent", key.tenant_id, AgentId(name), team)
    return Resource("call", key.tenant_id, owner.agent_id if owner is not None else None, team)
