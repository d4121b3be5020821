"""What readers see while Redis is away, silent, empty again, or a call somebody else's: all, or that it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from server.log.contract import Event, Position
from server.log.leases import Fenced
from server.log.redis import RedisLog
from server.log.redis_keys import Keys
from server.wire.errors import Unavailable
from server.wire.publication import Notice
from tests.server.log.events import AGENT, CALL, action, call, content, folded, offsets, transcript
from tests.server.log.redis_server import RedisServer, redis_server
from tests.server.log.screen import Screen

TIMEOUT_S = 1.0
"""Longer than a busy machine takes for one append: else the log goes on alone before the drill begins."""


class Told:
    """Waits for what the log says of itself."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    def take(self, notice: Notice) -> None:
        self.codes.append(notice.code)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def logs(server: RedisServer) -> AsyncIterator[list[RedisLog]]:
    found = [RedisLog(server.url, timeout_s=TIMEOUT_S) for _ in range(2)]
    for log in found:
        await log.start()
    yield found
    for log in found:
        await log.stop()


async def own(log: RedisLog, server: RedisServer, fence: str) -> None:
    server.command("SET", Keys.of(CALL).fence, fence)
    await log.own(CALL, fence)


async def attached(log: RedisLog) -> None:
    """Return once the log is one with Redis again."""
    async with Screen.patience():
        await log.shared()


def is_back(log: RedisLog) -> asyncio.Event:
    """Set when the log's own connection is there again: each process finds that out for itself."""
    back, on_up = asyncio.Event(), log.link.on_up

    def up() -> None:
        on_up()
        back.set()

    log.link.on_up = up
    return back


def said(*names: str) -> list[Event]:
    return [transcript(name, final=True) for name in names]


@pytest.mark.slow
async def test_while_redis_is_down_the_call_goes_on_and_comes_back_whole(
    server: RedisServer, logs: list[RedisLog]
) -> None:
    here, there = logs
    await own(here, server, "1")
    near, far = Screen(here, CALL), Screen(there, CALL)
    await here.recover(CALL, None)
    await there.recover(CALL, None)
    await here.append(CALL, said("u1", "u2"))
    await far.until(2)
    back = is_back(there)
    server.kill()
    during = await here.append(CALL, said("u3"))
    during += await here.append(CALL, [*said("u4"), action()], b"kept")
    assert near.seen[-1] == during[-1], "guidance goes on"
    assert during[0].position.epoch != near.seen[0].position.epoch, "and readers are told"
    local = await here.recover(CALL, near.seen[1].position)
    assert not local.recovered
    assert len(folded(local.snapshot)) == 5
    with pytest.raises(Unavailable):
        await there.recover(CALL, None)
    server.start()
    await attached(here)
    async with Screen.patience():
        await back.wait()
    await far.until_epoch(during[0].position.epoch)
    recovery = await there.recover(CALL, None)
    assert folded(recovery.snapshot) == folded(local.snapshot)
    assert await there.memory(CALL) == b"kept"
    (later,) = await here.append(CALL, said("u5"))
    assert later.position == Position(during[0].position.epoch, during[-1].position.offset + 1)
    tail = await there.recover(CALL, during[0].position)
    assert tail.recovered, "a reader that stayed with the owner lost nothing"
    assert content(tail.tail) == content((*during[1:], later))


async def test_a_redis_that_restarts_empty_gets_the_call_back_in_a_new_epoch(
    server: RedisServer, logs: list[RedisLog]
) -> None:
    here, there = logs
    await own(here, server, "1")
    far = Screen(there, CALL)
    await there.recover(CALL, None)
    before = await here.append(CALL, [*said("u1", "u2"), action(), transcript("u3")], b"kept")
    await far.until(4)
    server.kill()
    server.start()
    await here.append(CALL, said("u3"))
    recovery = await there.recover(CALL, before[-1].position)
    assert not recovery.recovered
    assert folded(recovery.snapshot) == folded([*before, *await here.read(CALL, None, 100)])
    assert await there.memory(CALL) == b"kept"
    assert await far.until_epoch(recovery.position.epoch)


async def test_agents_learn_of_their_calls_again(server: RedisServer, logs: list[RedisLog]) -> None:
    here, there = logs
    await here.append(AGENT, [call("started", "c1")])
    await there.append(AGENT, [call("started", "c2"), call("started", "c3")])
    await there.append(AGENT, [call("ended", "c3")])
    server.kill()
    server.start()
    await here.append(AGENT, [call("started", "c4")])
    await there.append(AGENT, [call("started", "c5")])
    recovery = await here.recover(AGENT, None)
    assert {key for _, key in folded(recovery.snapshot)} == {"c1", "c2", "c4", "c5"}


async def test_a_silent_redis_holds_nobody_up(server: RedisServer, logs: list[RedisLog]) -> None:
    here, _ = logs
    await own(here, server, "1")
    await here.append(CALL, said("u1"))
    server.pause()
    try:
        (first,) = await here.append(CALL, said("u2"))
        loop_s = here._now_s()
        entries = await here.append(CALL, said("u3", "u4"))
        assert here._now_s() - loop_s < TIMEOUT_S / 2, "only the first one waits"
        assert offsets((first, *entries)) == [2, 3, 4]
    finally:
        server.go_on()
    await attached(here)
    recovery = await here.recover(CALL, None)
    assert recovery.position == entries[-1].position
    assert {key for _, key in folded(recovery.snapshot)} == {"u1", "u2", "u3", "u4"}


async def test_a_stale_owner_cannot_write(server: RedisServer, logs: list[RedisLog]) -> None:
    here, there = logs
    await own(here, server, "1")
    await here.append(CALL, said("u1"))
    await own(there, server, "2")
    await there.append(CALL, said("u2"))
    with pytest.raises(Fenced):
        await here.append(CALL, said("stale"))
    assert {key for _, key in folded((await here.recover(CALL, None)).snapshot)} == {"u1", "u2"}


async def test_what_a_cut_off_owner_said_alone_is_void_and_its_readers_look_again(
    server: RedisServer, logs: list[RedisLog]
) -> None:
    here, there = logs
    await own(here, server, "1")
    near = Screen(here, CALL)
    await here.append(CALL, said("u1"))
    server.pause()
    await here.append(CALL, said("on its way"))
    await here.append(CALL, said("void"))
    server.go_on()
    await own(there, server, "2")
    await there.append(CALL, said("u2"))
    await near.until_lost()
    recovery = await here.recover(CALL, near.seen[-1].position)
    assert not recovery.recovered
    assert {key for _, key in folded(recovery.snapshot)} - {"on its way"} == {"u1", "u2"}


async def test_the_operator_is_told_once_each_way(server: RedisServer) -> None:
    told = Told()
    log = RedisLog(server.url, timeout_s=TIMEOUT_S, on_notice=told.take)
    await log.start()
    await log.append(CALL, said("u1"))
    server.kill()
    await log.append(CALL, said("u2"))
    await log.append(AGENT, [call("started")])
    server.start()
    await attached(log)
    assert told.codes == ["log_not_shared", "log_shared"]
    await log.stop()


async def test_a_full_redis_forgets_what_is_longest_unused_and_nothing_that_lives(server: RedisServer) -> None:
    log = RedisLog(server.url, timeout_s=5)
    await log.start()
    keys = [CALL.__class__(CALL.tenant_id, f"call:{number}") for number in range(6)]
    for key in keys:
        await log.append(key, [transcript("u1", text="word " * 2000, final=True)])
    server.command("SET", Keys.of(keys[0]).lease, "somebody")
    assert await log.sweep() == 0
    server.command("CONFIG", "SET", "maxmemory", "1")
    assert await log.sweep() == 5
    server.command("CONFIG", "SET", "maxmemory", "0")
    assert [key async for key in log.channels()] == [keys[0]]
    await log.stop()


async def test_a_redis_that_refuses_for_want_of_memory_gets_the_call_when_it_has_some(
    server: RedisServer, logs: list[RedisLog]
) -> None:
    here, there = logs
    await own(here, server, "1")
    await here.append(CALL, said("u1"))
    server.command("CONFIG", "SET", "maxmemory", "1")
    entries = await here.append(CALL, said("u2"))
    server.command("CONFIG", "SET", "maxmemory", "0")
    await attached(here)
    recovery = await there.recover(CALL, None)
    assert recovery.position == entries[-1].position
    assert {key for _, key in folded(recovery.snapshot)} == {"u1", "u2"}
