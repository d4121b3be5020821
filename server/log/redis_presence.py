"""Presence of several processes: each registers its own agents in Redis, for a time, and reads all.

    cueline:presence/<tenant>    hash: `agent process` → [expires_ms, sockets, team]
    cueline:teams/<tenant>       hash: agent → team with which it last signed in

What a dead process registered expires; a process that lives renews.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from server.log.presence import LocalPresence, Signed
from server.log.redis_link import RedisLink, end
from server.wire.errors import Unavailable
from server.wire.ids import AgentId, TenantId

logger = logging.getLogger(__name__)

LIFE_S = 10.0
RENEW_S = 3.0


class _Registration(msgspec.Struct, frozen=True, array_like=True):
    expires_ms: int
    num_sockets: int
    team: str


class RedisPresence(LocalPresence):
    """`Presence` shared through Redis.

    Args:
        link: Commands.
        process: Name of this process.
    """

    def __init__(self, link: RedisLink, process: str) -> None:
        super().__init__()
        self._link = link
        self._process = process
        self._gone: set[tuple[TenantId, AgentId]] = set()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Register from now on."""
        self._task = asyncio.create_task(self._run(), name="presence")

    async def stop(self) -> None:
        """Take the registrations of this process away."""
        if self._task is None:
            return
        await end(self._task)
        self._gone.update(self.here())
        self._sockets.clear()
        try:
            await self.register()
        except Unavailable:
            logger.warning("registrations of agents expire by themselves")

    def changed(self, tenant_id: TenantId, agent_id: AgentId) -> None:
        """Tell the others, soon."""
        if (tenant_id, agent_id) not in self._sockets:
            self._gone.add((tenant_id, agent_id))
        self._changed.set()

    async def register(self) -> None:
        """Write what is true of this process.

        Raises:
            Unavailable: Redis does not answer.
        """
        here, gone = self.here(), tuple(self._gone)
        expires_ms = int((time.time() + LIFE_S) * 1000)
        for (tenant_id, agent_id), signed in here.items():
            registration = msgspec.json.encode(_Registration(expires_ms, signed.num_sockets, signed.team))
            await self._link.run("HSET", _presence(tenant_id), f"{agent_id} {self._process}", registration)
            await self._link.run("HSET", _teams(tenant_id), agent_id, signed.team)
        for tenant_id, agent_id in gone:
            if (tenant_id, agent_id) not in here:
                await self._link.run("HDEL", _presence(tenant_id), f"{agent_id} {self._process}")
            self._gone.discard((tenant_id, agent_id))

    async def signed_in(self, tenant_id: TenantId) -> Mapping[AgentId, Signed]:
        """See `Presence`."""
        fields = iter(await self._link.run("HGETALL", _presence(tenant_id)))
        now_ms = time.time() * 1000
        found: dict[AgentId, Signed] = {}
        for name, data in zip(fields, fields, strict=True):
            registration = msgspec.json.decode(data, type=_Registration)
            if registration.expires_ms <= now_ms:
                await self._link.run("HDEL", _presence(tenant_id), name)
                continue
            agent_id = AgentId(name.decode().partition(" ")[0])
            others = found.get(agent_id, Signed(0))
            found[agent_id] = Signed(others.num_sockets + registration.num_sockets, registration.team or others.team)
        return found

    async def team_of(self, tenant_id: TenantId, agent_id: AgentId) -> str:
        """See `Presence`."""
        team = await self._link.run("HGET", _teams(tenant_id), agent_id)
        return team.decode() if team is not None else ""

    async def _run(self) -> None:
        while True:
            alarm = asyncio.get_running_loop().call_later(RENEW_S, self._changed.set)
            try:
                await self._changed.wait()
            finally:
                alarm.cancel()
            self._changed.clear()
            try:
                await self.register()
            except Unavailable:
                continue  # the next round says it again


def _presence(tenant_id: TenantId) -> str:
    return f"cueline:presence/{quote(tenant_id, safe='')}"


def _teams(tenant_id: TenantId) -> str:
    return f"cueline:teams/{quote(tenant_id, safe='')}"
