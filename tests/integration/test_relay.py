"""A telephony system's socket stays where it arrived, whatever becomes of the processes its call lives in."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect

from server.log.redis import RedisLog
from tests.integration.calls import Agent
from tests.integration.fleet import FleetUnderTest, fleet_of
from tests.integration.vendors import ANSWER_S, Vendor, check, leave, own
from tests.server.ingest.adapters.conformance import Dialect
from tests.server.ingest.adapters.test_audiohook import AudioHookDialect
from tests.server.ingest.adapters.test_lca import LcaDialect
from tests.server.ingest.adapters.test_twilio import TwilioDialect

pytestmark = pytest.mark.slow


@pytest.fixture
async def log(fleet: FleetUnderTest) -> AsyncIterator[RedisLog]:
    log = RedisLog(fleet.redis.url, timeout_s=5)
    await log.start()
    yield log
    await log.stop()


@pytest.fixture
async def fleet() -> AsyncIterator[FleetUnderTest]:
    async with fleet_of(2) as started:
        yield started


async def heard(agent: Agent, num: int) -> None:
    """Return once an agent's screen has the words of so many seconds."""
    async with asyncio.timeout(ANSWER_S):
        while sum(text.startswith("second ") for text in agent.words.values()) < num:
            await agent.told()


@pytest.mark.parametrize("dialect", [TwilioDialect(), AudioHookDialect()], ids=["twilio", "audiohook"])
async def test_a_call_is_heard_whole_though_its_owner_is_killed(
    fleet: FleetUnderTest, log: RedisLog, dialect: Dialect
) -> None:
    owner, here = fleet.processes
    words = await own(owner.url, "c1")
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
    await check(log, "c1", vendor.seconds)


@pytest.mark.parametrize("dialect", [TwilioDialect(), LcaDialect()], ids=["twilio", "lca"])
async def test_a_process_that_leaves_carries_its_sockets_until_they_hang_up(
    fleet: FleetUnderTest, log: RedisLog, dialect: Dialect
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
    await check(log, "c1", vendor.seconds)


async def test_a_process_that_stood_still_gives_its_call_up_and_carries_it_on(
    fleet: FleetUnderTest, log: RedisLog
) -> None:
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
    await check(log, "c1", vendor.seconds)
