"""Leases on a real server: one owner, a higher fence for the next, and what a dead owner left is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from server.log.contract import ChannelKey
from server.log.leases import Elsewhere, Fenced
from server.log.redis import RedisLog
from server.log.redis_keys import Keys
from server.log.redis_leases import SCRIPTS, RedisLeases
from tests.server.log.events import CALL, transcript
from tests.server.log.redis_server import RedisServer, redis_server

LEASE_S = 0.5


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def logs(server: RedisServer) -> AsyncIterator[list[RedisLog]]:
    found = [RedisLog(server.url, timeout_s=5, scripts=SCRIPTS) for _ in range(2)]
    for log in found:
        await log.start()
    yield found
    for log in found:
        await log.stop()


@pytest.fixture
def leases(logs: list[RedisLog]) -> list[RedisLeases]:
    return [
        RedisLeases(log, f"p{number}", f"127.0.0.1:{number}", lease_s=LEASE_S, retention_s=60)
        for number, log in enumerate(logs)
    ]


async def test_a_call_has_one_owner_and_the_other_is_told_who(leases: list[RedisLeases]) -> None:
    await leases[0].acquire(CALL)
    await leases[0].acquire(CALL)
    with pytest.raises(Elsewhere) as elsewhere:
        await leases[1].acquire(CALL)
    assert elsewhere.value.address == "127.0.0.1:0"
    await leases[0].release(CALL, is_over=True)
    await leases[1].acquire(CALL)


async def test_what_a_dead_owner_left_is_adopted_and_it_cannot_write_any_more(
    leases: list[RedisLeases], logs: list[RedisLog]
) -> None:
    await leases[0].acquire(CALL)
    await logs[0].append(CALL, [transcript("u1", final=True)])
    adopted = asyncio.Event()

    async def adopt(key: ChannelKey) -> None:
        await leases[1].acquire(key)
        adopted.set()

    leases[1].on_orphan = adopt
    leases[1].start()  # the first never renews: it is dead
    async with asyncio.timeout(3):
        await adopted.wait()
    with pytest.raises(Fenced):
        await logs[0].append(CALL, [transcript("stale")])
    (entry,) = await logs[1].append(CALL, [transcript("u2", final=True)])
    assert entry.position.offset == 2, "the same epoch goes on"
    lost: list[ChannelKey] = []
    leases[0].on_lost = lost.append
    await leases[0].renew()
    assert lost == [CALL]
    await leases[1].stop()


async def test_a_call_that_was_left_to_others_is_an_orphan_at_once(leases: list[RedisLeases]) -> None:
    await leases[0].acquire(CALL)
    await leases[0].release(CALL, is_over=False)
    found: list[ChannelKey] = []

    async def adopt(key: ChannelKey) -> None:
        found.append(key)

    leases[1].on_orphan = adopt
    await leases[1].adopt()
    assert found == [CALL]
    await leases[1].acquire(CALL)
    await leases[1].release(CALL, is_over=True)
    await leases[1].adopt()
    assert found == [CALL]


async def test_an_owner_keeps_its_calls_when_redis_forgets_all(server: RedisServer, leases: list[RedisLeases]) -> None:
    await leases[0].acquire(CALL)
    server.command("FLUSHALL")
    await leases[0].renew()
    with pytest.raises(Elsewhere):
        await leases[1].acquire(CALL)


async def test_after_an_outage_owners_come_back_before_others_take(
    server: RedisServer, logs: list[RedisLog], leases: list[RedisLeases]
) -> None:
    await leases[0].acquire(CALL)
    server.command("DEL", Keys.of(CALL).lease)  # it ran out while Redis was away
    logs[1].link.back_since_s = asyncio.get_running_loop().time()
    with pytest.raises(Elsewhere):
        await leases[1].acquire(CALL)
    await leases[0].renew()
    logs[1].link.back_since_s = float("-inf")
    with pytest.raises(Elsewhere) as elsewhere:
        await leases[1].acquire(CALL)
    assert elsewhere.value.address
