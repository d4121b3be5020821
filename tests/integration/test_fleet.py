"""Three processes, one Redis: killed or restarted one after the other under load, they lose no word and no call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from server.cli.workers import free_port
from server.log.contract import ChannelKey
from server.log.redis import RedisLog
from server.log.redis_keys import Keys
from server.wire.ids import TenantId
from tests.integration.calls import Agent, Source, words_and_moments
from tests.integration.fleet_process import Life
from tests.server.log.redis_server import RedisServer, redis_server

ROOT = Path(__file__).resolve().parents[2]
CALLS = 6
TAKEN_OVER_WITHIN_S = 3.0


class Process:
    """One of the fleet."""

    def __init__(self, process: asyncio.subprocess.Process, private_port: int) -> None:
        self.process = process
        self.private_port = private_port

    async def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        async with asyncio.timeout(20):
            await self.process.wait()


class FleetUnderTest:
    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis
        self.port = free_port("127.0.0.1")
        self.processes: list[Process] = []

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def start_one(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.fleet_process"),
            msgspec.json.encode(Life(port=self.port, redis=self.redis.url)).decode(),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        assert line, "a process of the fleet did not start"
        started = Process(process, int(line.split()[0]))
        self.processes.append(started)
        return started

    async def owner_of(self, call: str) -> Process:
        """Whose address its lease names."""
        lease = self.redis.command("GET", Keys.of(channel(call)).lease).decode()
        port = int(lease.split()[-1].rpartition(":")[2])
        return next(process for process in self.processes if process.private_port == port)


@pytest.fixture
async def fleet() -> AsyncIterator[FleetUnderTest]:
    with redis_server() as redis:
        fleet = FleetUnderTest(redis)
        try:
            await asyncio.gather(*(fleet.start_one() for _ in range(3)))
            yield fleet
        finally:
            for process in fleet.processes:
                if process.process.returncode is None:
                    process.process.kill()
                    await process.process.wait()


def channel(call: str) -> ChannelKey:
    return ChannelKey(TenantId("test"), f"call:{call}")


@contextlib.asynccontextmanager
async def load(fleet: FleetUnderTest) -> AsyncIterator[tuple[list[Source], list[Agent]]]:
    """Calls that go on until the body is done; then all of them have to have exactly what was said."""
    sources = [Source(fleet.url, f"c{number}", words_and_moments) for number in range(CALLS)]
    agents = [Agent(fleet.url, source.call) for source in sources]
    work = [asyncio.create_task(one.run()) for one in (*sources, *agents)]
    try:
        await asyncio.gather(*(source.speaks() for source in sources))
        yield sources, agents
        for source in sources:
            source.hanging_up.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*work)
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


async def check(fleet: FleetUnderTest, sources: list[Source], agents: list[Agent]) -> None:
    log = RedisLog(fleet.redis.url, timeout_s=5)
    await log.start()
    try:
        for source, agent in zip(sources, agents, strict=True):
            recovery = await log.recover(channel(source.call), None)
            written = [json.loads(entry.body) for entry in recovery.snapshot if entry.kind == "transcript"]
            assert {item["d"]["utterance_id"]: item["d"]["text"] for item in written} == source.acked
            assert agent.words == source.acked
            assert agent.num_lost == 0, "positions stayed good through every change of owner"
            assert agent.ends == 1
            # Said in every tenth utterance, guided once per call: the next owner knows what the last one knew.
            entries = await log.read(channel(source.call), None, 10**5)
            cards = [json.loads(entry.body)["d"] for entry in entries if entry.kind == "action"]
            assert [card["id"] for card in cards if card["state"] == "new"] == ["keep-1"]
            assert [card["revision"] for card in cards] == list(range(1, len(cards) + 1))
    finally:
        await log.stop()


@pytest.mark.slow
async def test_a_rolling_restart_under_load_loses_nothing(fleet: FleetUnderTest) -> None:
    async with load(fleet) as (sources, agents):
        for old in list(fleet.processes):
            await old.end(signal.SIGTERM)
            await fleet.start_one()
            await asyncio.gather(*(source.speaks() for source in sources))
    assert sum(source.num_connections for source in sources) > CALLS, "calls did move"
    await check(fleet, sources, agents)


@pytest.mark.slow
async def test_the_calls_of_a_killed_process_are_taken_over_in_time(fleet: FleetUnderTest) -> None:
    async with load(fleet) as (sources, agents):
        victim = await fleet.owner_of(sources[0].call)
        await victim.end(signal.SIGKILL)
        await asyncio.gather(*(source.speaks() for source in sources))
        assert await fleet.owner_of(sources[0].call) is not victim
    longest_s = max(source.longest_silence_s for source in sources)
    print(f"\nlongest silence of a call whose process was killed: {longest_s:.2f} s")
    assert longest_s <= TAKEN_OVER_WITHIN_S
    await check(fleet, sources, agents)
