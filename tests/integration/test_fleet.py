"""Three processes, one Redis: killed or restarted one after the other under load, they lose no word and no call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from server.cli.workers import free_port
from server.log.contract import ChannelKey
from server.log.redis import RedisLog
from server.log.redis_keys import Keys
from server.replay.feed_client import FeedClient, Received, Subscribed
from server.wire.ids import TenantId
from tests.integration.peers import utterance
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
            *(sys.executable, "-m", "tests.integration.fleet_process", self.redis.url, str(self.port)),
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


class Source:
    """A telephony system: speaks numbered words, keeps the one that was not acknowledged, and comes back."""

    def __init__(self, fleet: FleetUnderTest, call: str) -> None:
        self.call = call
        self.acked: list[str] = []
        self.longest_silence_s = 0.0
        self.num_connections = 0
        self.hanging_up = asyncio.Event()
        self._spoke_s = 0.0
        self._fleet = fleet
        self._acked = asyncio.Event()

    async def run(self) -> None:
        while True:
            with contextlib.suppress(ConnectionClosed, InvalidHandshake, OSError, TimeoutError):
                async with connect(self._fleet.url + "/v1/ingest/transcripts", compression=None, proxy=None) as socket:
                    if await self._speak(socket):
                        return
            await asyncio.sleep(0.05)

    async def _speak(self, socket: Any) -> bool:
        await socket.send(json.dumps({"type": "start", "conversation_id": self.call, "agent_id": "anna"}))
        if json.loads(await socket.recv())["type"] != "started":
            return False
        self.num_connections += 1
        while not self.hanging_up.is_set():
            name = f"u{len(self.acked)}"
            await socket.send(json.dumps(utterance(name, f"word {name}")))
            message = json.loads(await socket.recv())
            if message.get("utterance_id") != name:
                return False
            if self.acked:
                self.longest_silence_s = max(self.longest_silence_s, time.monotonic() - self._spoke_s)
            self._spoke_s = time.monotonic()
            self.acked.append(name)
            self._acked.set()
            await asyncio.sleep(0.01)
        await socket.send(json.dumps({"type": "stop"}))
        return json.loads(await socket.recv())["type"] == "stopped"

    async def speaks(self, more: int = 5) -> None:
        """Return once it was acknowledged so many further words."""
        target = len(self.acked) + more
        async with asyncio.timeout(15):
            while len(self.acked) < target:
                self._acked.clear()
                await self._acked.wait()


class Agent:
    """Follows a call through all cuts until it ends."""

    def __init__(self, fleet: FleetUnderTest, call: str) -> None:
        self.words: dict[str, str] = {}
        self.num_lost = 0
        self.ends = 0
        self._fleet = fleet
        self._call = call

    async def run(self) -> None:
        async with FeedClient(self._fleet.url, random_s=lambda limit: limit / 20) as client:
            await client.subscribe(f"call:{self._call}")
            async for event in client.events():
                if isinstance(event, Subscribed):
                    self.num_lost += event.is_lost
                if not isinstance(event, Received):
                    continue
                payload = event.publication.d
                if event.publication.kind == "transcript":
                    self.words[payload["utterance_id"]] = payload["text"]
                if event.publication.kind == "call" and payload["state"] == "ended":
                    self.ends += 1
                    return


@contextlib.asynccontextmanager
async def load(fleet: FleetUnderTest) -> AsyncIterator[tuple[list[Source], list[Agent]]]:
    """Calls that go on until the body is done; then all of them have to have exactly what was said."""
    sources = [Source(fleet, f"c{number}") for number in range(CALLS)]
    agents = [Agent(fleet, source.call) for source in sources]
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
            said = {name: f"word {name}" for name in source.acked}
            recovery = await log.recover(channel(source.call), None)
            written = [json.loads(entry.body) for entry in recovery.snapshot if entry.kind == "transcript"]
            assert {item["d"]["utterance_id"]: item["d"]["text"] for item in written} == said
            assert agent.words == said
            assert agent.num_lost == 0, "positions stayed good through every change of owner"
            assert agent.ends == 1
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
