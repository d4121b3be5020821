"""Three processes, one Redis: killed or restarted one after the other under load, they lose no word and no call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator

import pytest

from server.log.redis import RedisLog
from tests.integration.calls import Agent, Source, words_and_moments
from tests.integration.fleet import FleetUnderTest, channel, fleet_of

CALLS = 6
TAKEN_OVER_WITHIN_S = 3.0


@pytest.fixture
async def fleet() -> AsyncIterator[FleetUnderTest]:
    async with fleet_of(3) as started:
        yield started


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
