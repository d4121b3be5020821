"""Server processes that share a Redis, each of its own on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

from server.cli.workers import free_port
from server.log.contract import ChannelKey
from server.log.redis_keys import Keys
from server.wire.ids import TenantId
from tests.integration.fleet_process import Life
from tests.integration.lives import Lives
from tests.server.log.redis_server import RedisServer, redis_server


class Process:
    """One of the fleet."""

    def __init__(self, life: Lives, private_port: int, own_port: int) -> None:
        self.private_port = private_port
        self._own_port = own_port
        self._life = life

    @property
    def url(self) -> str:
        """Leads to this one, while the fleet's leads to any."""
        return f"ws://127.0.0.1:{self._own_port}"

    @property
    def is_alive(self) -> bool:
        assert self._life.process is not None
        return self._life.process.is_alive()

    def leave(self) -> None:
        """Tell it to; it may have something left to do."""
        self._life.signal(signal.SIGTERM)

    def freeze(self) -> None:
        """Stand still, as a machine that swaps does."""
        self._life.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._life.signal(signal.SIGCONT)

    async def end(self, how: signal.Signals) -> None:
        self._life.signal(how)
        await self.ended(0 if how is signal.SIGTERM else -how)

    async def ended(self, code: int = 0) -> None:
        assert self._life.process is not None
        await asyncio.to_thread(self._life.process.join, 20)
        assert self._life.process.exitcode == code


class FleetUnderTest:
    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis
        self.port = free_port("127.0.0.1")
        self.processes: list[Process] = []

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def start_one(self) -> Process:
        life = Lives(Life(port=self.port, redis=self.redis.url))
        async with asyncio.timeout(60):
            told = await (await life.begin())
        assert told, "a process of the fleet did not start"
        private_port, own_port, _ = told.split()
        started = Process(life, int(private_port), int(own_port))
        self.processes.append(started)
        return started

    async def owner_of(self, call: str) -> Process | None:
        """Whose address its lease names; None: nobody has it."""
        lease = self.redis.command("GET", Keys.of(channel(call)).lease)
        if lease.startswith(b"$-1"):  # no such key
            return None
        port = int(lease.decode().split()[-1].rpartition(":")[2])
        return next(process for process in self.processes if process.private_port == port)


@contextlib.asynccontextmanager
async def fleet_of(num_processes: int) -> AsyncIterator[FleetUnderTest]:
    """Start them; who is still there at the end is killed."""
    with redis_server() as redis:
        fleet = FleetUnderTest(redis)
        try:
            await asyncio.gather(*(fleet.start_one() for _ in range(num_processes)))
            yield fleet
        finally:
            for process in fleet.processes:
                if process.is_alive:
                    await process.end(signal.SIGKILL)


def channel(call: str) -> ChannelKey:
    return ChannelKey(TenantId("test"), f"call:{call}")
