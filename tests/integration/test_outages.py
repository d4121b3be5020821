"""What a server leans on goes away, begins anew, slows down or fills up in the midst of a call.

After each: the event log, the store, the transcript and the agent's screen agree. An outage lasts three seconds here,
longer than every time-out and lease in it; `CUELINE_OUTAGE_S=60` has it last as long as in the field.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.cli.workers import free_port
from server.log.contract import ChannelKey
from server.log.redis import RedisLog
from server.store.sql import SqlStore
from server.wire.ids import TenantId
from tests.integration.calls import Agent, Source, words_and_moments
from tests.integration.fleet_process import Life
from tests.integration.lives import Lives
from tests.integration.proxy import FaultProxy, fault_proxy
from tests.server.log.redis_server import RedisServer, redis_server
from tests.server.store.postgres_server import PostgresServer, a_postgres

pytestmark = pytest.mark.slow

OUTAGE_S = float(os.environ.get("CUELINE_OUTAGE_S", "3"))
SLOW_REDIS_S, SLOW_POSTGRES_S = 0.05, 0.3
CALL = ChannelKey(TenantId("test"), "call:c1")


class World:
    """One server over a Redis and a PostgreSQL, each behind a proxy; and a call."""

    def __init__(self, redis: RedisServer, data: Path, proxies: tuple[FaultProxy, FaultProxy], store: str) -> None:
        self.redis = redis
        self.data = data
        self.redis_proxy, self.postgres_proxy = proxies
        self.store = store
        url = f"redis://127.0.0.1:{self.redis_proxy.port}/0"
        life = Life(port=free_port("127.0.0.1"), redis=url, data=str(data), timeout_ms=500, store=store)
        self.lives = Lives(life)
        self.url = f"ws://127.0.0.1:{life.port}"
        self.source = Source(self.url, "c1", words_and_moments, patience_s=5.0)
        self.agents = [Agent(self.url, "c1")]
        self.work = [asyncio.create_task(one.run()) for one in (self.source, *self.agents)]

    def another_agent(self) -> None:
        self.agents.append(Agent(self.url, "c1"))
        self.work.append(asyncio.create_task(self.agents[-1].run()))

    async def agree(self) -> None:
        """End the call and the server, and compare what everybody has."""
        self.source.hanging_up.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*self.work)
        stored = await self.stored()
        await self.lives.end(is_killed=False)
        log = RedisLog(self.redis.url, timeout_s=5)
        await log.start()
        snapshot = (await log.recover(CALL, None)).snapshot
        await log.stop()
        said = [json.loads(entry.body)["d"] for entry in snapshot if entry.kind == "transcript"]
        assert {one["utterance_id"]: one["text"] for one in said} == self.source.acked
        for agent in self.agents:
            assert agent.words == self.source.acked
            assert agent.ends == 1
        assert {one["utterance_id"]: one["text"] for one in stored["utterances"]} == self.source.acked
        assert [card["action_id"] for card in stored["actions"]] == ["keep-1"]

    async def stored(self) -> dict[str, Any]:
        """The conversation once the outbox has drained: the store learns in the order in which things happened."""
        store = SqlStore(self.store)
        await store.start()
        async with asyncio.timeout(60):
            while (found := await store.conversation(CALL.tenant_id, "c1")) is None or found["state"] != "ended":
                await asyncio.to_thread(time.sleep, 0.05)  # the store tells nobody
        await store.stop()
        return found

    async def away(self, proxy: FaultProxy) -> None:
        """Let what is behind it be away, and see that the call goes on meanwhile."""
        await proxy.go_away()
        over = asyncio.create_task(asyncio.sleep(OUTAGE_S))  # the outage itself
        await self.source.speaks(10)
        await over
        await self.source.speaks(5)
        proxy.come_back()
        await self.source.speaks(10)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with a_postgres() as server:
        yield server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
async def world(postgres: PostgresServer, data: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    database = f"drill_{abs(hash(request.node.name)) % 10**9}"
    await postgres.execute(f"CREATE DATABASE {database}")
    with redis_server() as redis:
        async with fault_proxy(redis.port) as redis_proxy, fault_proxy(postgres.port) as postgres_proxy:
            url = f"postgresql://cueline@127.0.0.1:{postgres_proxy.port}/{database}"
            world = World(redis, data, (redis_proxy, postgres_proxy), url)
            try:
                async with asyncio.timeout(30):
                    assert await (await world.lives.begin()), "the server did not start"
                await world.source.speaks(10)
                while not world.agents[0].words:  # who has seen nothing yet can lose nothing
                    await world.agents[0].told()
                yield world
            finally:
                for task in world.work:
                    task.cancel()
                await asyncio.gather(*world.work, return_exceptions=True)
                assert world.lives.process is not None
                if world.lives.process.exitcode is None:
                    await world.lives.end(is_killed=True)


async def test_redis_is_away(world: World) -> None:
    await world.away(world.redis_proxy)
    await world.agree()


async def test_redis_begins_anew_and_empty(world: World) -> None:
    world.redis.kill()
    await world.source.speaks(5)
    world.redis.start()
    await world.source.speaks(10)
    await world.agree()
    assert world.agents[0].num_lost >= 1, "a new epoch is told"


async def test_the_database_is_away(world: World) -> None:
    await world.away(world.postgres_proxy)
    await world.agree()
    assert world.agents[0].num_lost == 0


async def test_both_are_slow(world: World) -> None:
    world.redis_proxy.delay_s, world.postgres_proxy.delay_s = SLOW_REDIS_S, SLOW_POSTGRES_S
    await world.source.speaks(4)
    world.another_agent()
    await world.source.speaks(3)
    world.redis_proxy.delay_s = world.postgres_proxy.delay_s = 0.0
    await world.source.speaks(5)
    await world.agree()


async def test_the_clock_jumps(world: World) -> None:
    for jump in (signal.SIGUSR1, signal.SIGUSR2):
        world.lives.signal(jump)
        await world.source.speaks(10)
        world.another_agent()  # who signs in afterwards has a ticket of the new time
        await world.source.speaks(5)
    await world.agree()
    assert world.agents[0].num_lost == 0


class SmallDisk:
    """A file system of its own."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def fill(self) -> None:
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                file.write(b"x" * 512)

    def make_room(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(data: Path) -> Iterator[SmallDisk]:
    """Mounted before the server starts: ask for it before `world`."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(data)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield SmallDisk(data)
    subprocess.run(["umount", "--lazy", str(data)], check=True)


async def test_the_disk_of_the_outbox_is_full_while_the_database_is_away(disk: SmallDisk, world: World) -> None:
    await world.postgres_proxy.go_away()
    await world.source.speaks(5)
    disk.fill()
    async with asyncio.timeout(30):
        await world.source.refused.wait()
    agent, newest = world.agents[0], f"u{len(world.source.acked)}"
    async with asyncio.timeout(30):
        while newest not in agent.words:
            await agent.told()
    assert newest not in world.source.acked, "guidance goes on, and nothing is acknowledged that is not safe"
    disk.make_room()
    await world.source.speaks(5)
    world.postgres_proxy.come_back()
    await world.source.speaks(5)
    await world.agree()
