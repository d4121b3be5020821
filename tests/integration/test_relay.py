"""A telephony system's socket stays where it arrived, whatever becomes of the processes its call lives in."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from server.log.redis import RedisLog
from tests.integration.calls import Agent
from tests.integration.fleet import FleetUnderTest, Process, channel, fleet_of
from tests.integration.seconds import RATE_HZ, one_second
from tests.server.ingest.adapters.conformance import FRAME_MS, Dialect, encode
from tests.server.ingest.adapters.test_audiohook import AudioHookDialect
from tests.server.ingest.adapters.test_lca import LcaDialect
from tests.server.ingest.adapters.test_twilio import TwilioDialect

pytestmark = pytest.mark.slow

FASTER = 4
"""Than anyone speaks: a call of ten seconds is over in three, and an outage of two is worth eight of it."""
AGENT = 60
"""The agent's seconds are others than the customer's."""
ANSWER_S = 20.0


@pytest.fixture
async def fleet() -> AsyncIterator[FleetUnderTest]:
    async with fleet_of(2) as started:
        yield started


class Vendor:
    """A telephony system that streams both sides of a call and does not care what is behind its socket."""

    def __init__(self, socket: ClientConnection, dialect: Dialect, call: str) -> None:
        self.socket = socket
        self.seconds = 0
        self._dialect = dialect
        self._call = call

    async def start(self) -> None:
        for frame in self._dialect.start(self._call):
            await self.socket.send(frame)

    async def speak(self, seconds: int) -> None:
        loop = asyncio.get_running_loop()
        step = RATE_HZ * FRAME_MS // 1000
        for _ in range(seconds):
            began_s = loop.time()
            sides = [encode(self._dialect.encoding, one_second(self.seconds + voice)) for voice in (0, AGENT)]
            frame_bytes = step * len(sides[0]) // RATE_HZ
            for number in range(1000 // FRAME_MS):
                at = number * frame_bytes
                index = self.seconds * 1000 // FRAME_MS + number
                parts = (side[at : at + frame_bytes] for side in sides)
                for frame in self._dialect.audio(self._call, index, *parts):
                    await self.socket.send(frame)
                await asyncio.sleep(began_s + (number + 1) * FRAME_MS / 1000 / FASTER - loop.time())
            self.seconds += 1

    async def hang_up(self) -> int:
        """Close code that it gets."""
        for frame in self._dialect.end(self._call):
            await self.socket.send(frame)
        async with asyncio.timeout(ANSWER_S):
            try:
                while True:
                    await self.socket.recv()
            except ConnectionClosed:
                return self.socket.close_code


async def own(process: Process, call: str) -> ClientConnection:
    """Let a process have a call: somebody streams its words there."""
    socket = await connect(f"{process.url}/v1/ingest/transcripts", proxy=None)
    await socket.send(json.dumps({"type": "start", "conversation_id": call, "agent_id": "anna"}))
    assert json.loads(await socket.recv())["type"] == "started"
    return socket


async def leave(socket: ClientConnection) -> None:
    await socket.send(json.dumps({"type": "stop", "call_ended": False}))
    async with asyncio.timeout(ANSWER_S):
        assert json.loads(await socket.recv())["type"] == "stopped"
    await socket.close()


async def heard(agent: Agent, num: int) -> None:
    """Return once an agent's screen has the words of so many seconds."""
    async with asyncio.timeout(ANSWER_S):
        while sum(text.startswith("second ") for text in agent.words.values()) < num:
            await agent.told()


async def check(fleet: FleetUnderTest, call: str, seconds: int) -> None:
    """Every second of both sides is in the log once, whole and at its time, and the call ended once, by its system."""
    log = RedisLog(fleet.redis.url, timeout_s=5)
    await log.start()
    try:
        entries = await log.read(channel(call), None, 10**5)
    finally:
        await log.stop()
    said = [json.loads(entry.body)["d"] for entry in entries if entry.kind == "transcript"]
    finals = [(one["speaker"], one["start_ms"], one["end_ms"], one["text"]) for one in said if one["is_final"]]
    assert sorted(finals) == sorted(
        (speaker, number * 1000, number * 1000 + 1000, f"second {number + voice}")
        for speaker, voice in (("customer", 0), ("agent", AGENT))
        for number in range(seconds)
    )
    states = [json.loads(entry.body)["d"] for entry in entries if entry.kind == "call"]
    assert [one["reason"] for one in states if one["state"] == "ended"] == ["stopped"]


@pytest.mark.parametrize("dialect", [TwilioDialect(), AudioHookDialect()], ids=["twilio", "audiohook"])
async def test_a_call_is_heard_whole_though_its_owner_is_killed(fleet: FleetUnderTest, dialect: Dialect) -> None:
    owner, here = fleet.processes
    words = await own(owner, "c1")
    agent = Agent(here.url, "c1")
    following = asyncio.create_task(agent.run())
    async with connect(here.url + dialect.path, compression=None, proxy=None) as socket:
        vendor = Vendor(socket, dialect, "c1")
        await vendor.start()
        await vendor.speak(3)
        await heard(agent, 4)
        await leave(words)
        assert await fleet.owner_of("c1") is owner
        speaking = asyncio.create_task(vendor.speak(14))
        await heard(agent, 8)
        await owner.end(signal.SIGKILL)
        await speaking
        assert await vendor.hang_up() == 1000
    async with asyncio.timeout(ANSWER_S):
        await following
    await check(fleet, "c1", vendor.seconds)


@pytest.mark.parametrize("dialect", [TwilioDialect(), LcaDialect()], ids=["twilio", "lca"])
async def test_a_process_that_leaves_carries_its_sockets_until_they_hang_up(
    fleet: FleetUnderTest, dialect: Dialect
) -> None:
    leaving, other = fleet.processes
    agent = Agent(other.url, "c1")
    async with connect(leaving.url + dialect.path, compression=None, proxy=None) as socket:
        vendor = Vendor(socket, dialect, "c1")
        await vendor.start()
        following = asyncio.create_task(agent.run())
        await vendor.speak(2)
        await heard(agent, 2)
        assert await fleet.owner_of("c1") is leaving
        leaving.leave()
        await vendor.speak(8)
        await heard(agent, 16)
        assert await fleet.owner_of("c1") is other
        assert leaving.is_alive
        # The next owner leaves, too, and a third one has come meanwhile.
        third = await fleet.start_one()
        await other.end(signal.SIGTERM)
        await vendor.speak(8)
        assert await fleet.owner_of("c1") is third
        assert await vendor.hang_up() == 1000
    await leaving.ended()
    async with asyncio.timeout(ANSWER_S):
        agent = Agent(third.url, "c1")
        await agent.run()
        following.cancel()
    await check(fleet, "c1", vendor.seconds)


async def test_a_process_that_stood_still_gives_its_call_up_and_carries_it_on(fleet: FleetUnderTest) -> None:
    frozen, other = fleet.processes
    dialect = AudioHookDialect()
    agent = Agent(other.url, "c1")
    async with connect(frozen.url + dialect.path, compression=None, proxy=None, ping_interval=None) as socket:
        vendor = Vendor(socket, dialect, "c1")
        await vendor.start()
        following = asyncio.create_task(agent.run())
        await vendor.speak(3)
        await heard(agent, 4)
        assert await fleet.owner_of("c1") is frozen
        frozen.freeze()
        speaking = asyncio.create_task(vendor.speak(12))
        async with asyncio.timeout(ANSWER_S):
            while await fleet.owner_of("c1") is not other:
                await asyncio.to_thread(time.sleep, 0.05)  # Redis tells nobody of a lease
        frozen.thaw()
        await speaking
        await heard(agent, 2 * vendor.seconds)
        assert await vendor.hang_up() == 1000
    async with asyncio.timeout(ANSWER_S):
        await following
    await check(fleet, "c1", vendor.seconds)
