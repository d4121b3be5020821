"""The contract on a real server, and what is Redis's own: several processes, trimming, tenants."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
from hypothesis import settings

from server.log.contract import ChannelKey, Entry, Position
from server.log.redis import RedisLimits, RedisLog
from server.log.redis_keys import Keys, channel_of
from server.log.redis_leases import SCRIPTS, RedisLeases
from server.log.redis_presence import RedisPresence
from server.log.redis_scripts import APPEND
from server.wire.errors import ConfigError
from server.wire.ids import AgentId, TenantId
from tests.examples import examples
from tests.server.log.contract_suite import CutClients, EventLogSuite, LogHarness
from tests.server.log.events import (
    AGENT,
    CALL,
    action,
    annotation,
    call,
    content,
    decoded,
    folded,
    offsets,
    transcript,
    untimed,
)
from tests.server.log.redis_server import RedisServer, binaries, redis_server
from tests.server.log.screen import Screen

DOCS = Path(__file__).parents[3] / "docs" / "operations.md"
TENANT = CALL.tenant_id


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(request.param) as server:
        yield server


class RedisHarness:
    """A crash of this process leaves Redis as it is."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.log: RedisLog

    async def start(self) -> RedisLog:
        self.server.command("FLUSHALL")
        return await self.restart()

    async def restart(self) -> RedisLog:
        if hasattr(self, "log"):
            await self.log.stop()
        self.log = RedisLog(self.server.url, timeout_s=5)
        await self.log.start()
        return self.log

    async def crash(self) -> RedisLog:
        return await self.restart()

    async def stop(self) -> None:
        if hasattr(self, "log"):
            await self.log.stop()


@pytest.fixture
async def harness(server: RedisServer) -> AsyncIterator[LogHarness]:
    harness = RedisHarness(server)
    yield harness
    await harness.stop()


class TestContract(EventLogSuite):
    pass


class RedisClients(CutClients):
    def make_harness(self) -> LogHarness:
        self.server = redis_server("valkey")
        return RedisHarness(self.server.__enter__())

    def teardown(self) -> None:
        super().teardown()
        self.server.__exit__(None, None, None)


if "valkey" in binaries():
    TestCutClients = pytest.mark.slow(RedisClients.TestCase)
    TestCutClients.settings = settings(max_examples=examples(12), stateful_step_count=25, deadline=None)


@pytest.fixture
async def logs(server: RedisServer) -> AsyncIterator[list[RedisLog]]:
    """Two processes' logs."""
    server.command("FLUSHALL")
    found = [RedisLog(server.url, timeout_s=5) for _ in range(2)]
    for log in found:
        await log.start()
    yield found
    for log in found:
        await log.stop()


async def test_what_one_process_appends_the_other_follows(logs: list[RedisLog]) -> None:
    here, there = logs
    screen = Screen(there, CALL)
    await there.recover(CALL, None)
    appended = await here.append(CALL, [transcript("u1"), action()])
    assert [entry.body for entry in await screen.until(2)] == [entry.body for entry in appended]
    assert [entry.is_interim for entry in screen.seen] == [True, False]


async def test_two_processes_make_one_order(logs: list[RedisLog]) -> None:
    screens = [Screen(log, AGENT) for log in logs]
    for log in logs:
        await log.recover(AGENT, None)

    async def speak(log: RedisLog, name: str) -> None:
        for number in range(25):
            await log.append(AGENT, [call("started", f"{name}{number}")])

    await asyncio.gather(speak(logs[0], "a"), speak(logs[1], "b"))
    for screen in screens:
        assert offsets(await screen.until(50)) == list(range(1, 51))
    assert content(screens[0].seen) == content(screens[1].seen)
    assert content(await logs[0].read(AGENT, None, 100)) == content(screens[0].seen)


async def test_what_is_pushed_back_before_its_append_returns_is_told_once(
    logs: list[RedisLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logs[0]
    screen = Screen(log, CALL)
    await log.recover(CALL, None)
    run = log.link.run

    async def late(*command: object) -> object:
        reply = await run(*command)
        if APPEND.digest in command:
            await screen.until(2)
        return reply

    monkeypatch.setattr(log.link, "run", late)
    assert untimed(await log.append(CALL, [transcript(), annotation()])) == untimed(screen.seen)


async def test_a_reader_that_joins_misses_nothing(logs: list[RedisLog]) -> None:
    here, there = logs
    done = asyncio.Event()

    async def speak() -> int:
        number = 0
        while not done.is_set():
            number += 1
            await here.append(CALL, [transcript(f"u{number}")])
        return number

    speaking = asyncio.create_task(speak())
    try:
        for _ in range(20):
            screen = Screen(there, CALL)
            first = (await there.recover(CALL, None)).position.offset + 1
            await screen.until(30)
            later = [offset for offset in offsets(screen.seen) if offset >= first]
            assert later == list(range(first, first + len(later)))
            assert later
            screen.end()
    finally:
        done.set()
        assert await speaking > 20


async def test_a_long_call_is_recovered_in_one_reply_and_nothing_said_is_lost(server: RedisServer) -> None:
    server.command("FLUSHALL")
    log = RedisLog(server.url, timeout_s=5, limits=RedisLimits(max_stream_entries=50))
    await log.start()
    try:
        first: list[Entry] = []
        for number in range(100):
            entries = await log.append(CALL, [transcript(f"u{number}", r, final=r == 3) for r in (1, 2, 3)])
            first = first or list(entries)
        exchanges = int(server.command("INFO", "commandstats").split(b"cmdstat_evalsha:calls=")[1].split(b",")[0])
        recovery = await log.recover(CALL, first[0].position)
        after = int(server.command("INFO", "commandstats").split(b"cmdstat_evalsha:calls=")[1].split(b",")[0])
        assert after == exchanges + 1
        assert not recovery.recovered, "it was too far behind, and is told"
        assert [decoded(entry)["d"]["is_final"] for entry in recovery.snapshot] == [True] * 100
        assert recovery.position.offset == 300
        near = await log.recover(CALL, Position(recovery.position.epoch, 280))
        assert near.recovered
        assert offsets(near.tail) == list(range(281, 301))
        assert b":50\r\n" in server.command("XLEN", Keys.of(CALL).stream)
    finally:
        await log.stop()


def test_no_two_channels_share_a_key() -> None:
    keys = [
        ChannelKey(TenantId(tenant), channel)
        for tenant in ("a", "a:c", "a:c:b", "a%3Ac")
        for channel in ("call:b", "call:b:c:d", "call:c:b", "agent:b", "call:b/meta".replace("/", ":"))
    ]
    names = [name for key in keys for name in (Keys.of(key).stream, Keys.of(key).meta, Keys.of(key).states)]
    assert len(set(names)) == len(names)
    assert [channel_of(Keys.of(key).stream) for key in keys] == keys


async def test_nobody_answers() -> None:
    with pytest.raises(ConfigError) as refused:
        await RedisLog("redis://127.0.0.1:1/0", timeout_s=0.2).start()
    assert refused.value.field == "log.url"
    with pytest.raises(ConfigError):
        await RedisLog("http://127.0.0.1:1/0", timeout_s=0.2).start()


async def test_a_user_of_its_own_needs_a_password_and_the_rights_that_the_documentation_names() -> None:
    [user] = re.findall(r"redis-cli (ACL SETUSER .*)", DOCS.read_text())
    words = user.replace("'", "").replace(">…", ">s3cret").split()
    with redis_server("valkey") as server:
        server.command(*words)
        url = server.url.replace("redis://", "redis://cueline@")
        with pytest.raises(ConfigError) as refused:
            await RedisLog(url, "wrong", timeout_s=1).start()
        assert refused.value.field == "log.password"
        assert "wrong" not in str(refused.value)
        log = RedisLog(url, "s3cret", timeout_s=5, scripts=SCRIPTS)
        await log.start()
        screen = Screen(log, CALL)
        leases = RedisLeases(log, "p", "127.0.0.1:1", lease_s=5, retention_s=60)
        await leases.acquire(CALL)
        await log.append(CALL, [transcript(), annotation()])
        assert len(folded((await log.recover(CALL, None)).snapshot)) == 2
        await screen.until(2)
        await leases.renew()
        leases.on_orphan = AsyncMock()
        await leases.adopt()
        await leases.release(CALL, is_over=False)
        await leases.adopt()
        leases.on_orphan.assert_awaited_once_with(CALL)
        presence = RedisPresence(log.link, "p")
        presence.enter(TENANT, AgentId("anna"), "north")
        await presence.register()
        assert set(await presence.signed_in(TENANT)) == {"anna"}
        assert await presence.team_of(TENANT, AgentId("anna")) == "north"
        await log.trim(CALL)
        assert await log.sweep() == 0
        await log.stop()
        server.command("ACL", "SETUSER", "cueline", "-time")
        with pytest.raises(ConfigError, match="TIME") as refused:
            await RedisLog(url, "s3cret", timeout_s=1).start()
        assert refused.value.field == "log.url"
