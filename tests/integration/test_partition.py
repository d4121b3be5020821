"""Two hosts, one of them cut off in the midst of its call: the other goes on with it, and the first one comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.client import connect

from server.log.contract import ChannelKey
from server.log.redis import RedisLog
from server.log.redis_keys import Keys
from server.log.redis_leases import SCRIPTS
from server.store.sql import SqlStore
from server.wire.ids import TenantId
from tests.integration.calls import Agent, Source, words_and_moments
from tests.integration.fleet_process import Life
from tests.integration.hosts import Hosts, hosts
from tests.integration.vendors import Vendor, check, leave, own
from tests.server.ingest.adapters.test_audiohook import AudioHookDialect
from tests.server.log.redis_server import binaries

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PORT, REDIS_PORT = 8000, 6379
PATIENCE_S = 1.0
TAKEN_OVER_WITHIN_S = 3.0
CALL = ChannelKey(TenantId("test"), "call:c1")


class Network:
    """Two hosts with a server each, and Redis between them."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts = hosts
        self.redis_url = f"redis://{hosts.hub_address}:{REDIS_PORT}/0"
        self.store_url = f"sqlite+aiosqlite:///{folder / 'shared.db'}"
        self.urls = [f"ws://{hosts.address(number)}:{PORT}" for number in range(2)]
        self.processes: list[asyncio.subprocess.Process] = []
        self._folder = folder

    async def start(self) -> None:
        server = [binaries()["valkey"], "--port", str(REDIS_PORT), "--bind", "0.0.0.0", "--protected-mode", "no"]
        await self._run(self.hosts.hub, *server, "--save", "", "--dir", str(self._folder))
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(self.hosts.hub_address, REDIS_PORT)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        await asyncio.gather(*(self._start_host(number, name) for number, name in enumerate(self.hosts.names)))

    async def _start_host(self, number: int, name: str) -> None:
        data = self._folder / name
        data.mkdir()
        life = Life(
            port=PORT,
            redis=self.redis_url,
            host=self.hosts.address(number),
            data=str(data),
            store=self.store_url,
            timeout_ms=500,
        )
        process = await self._run(
            name, sys.executable, "-m", "tests.integration.fleet_process", msgspec.json.encode(life).decode()
        )
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline(), "a host did not start"

    async def stop(self) -> None:
        for process in reversed(self.processes):
            if process.returncode is None:
                process.terminate()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _run(self, namespace: str, *words: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *self.hosts.command(namespace, *words), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        self.processes.append(process)
        return process


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    if "valkey" not in binaries():
        pytest.skip("there is no valkey server here")
    with hosts(2) as made:
        network = Network(made, tmp_path)
        try:
            await network.start()
            yield network
        finally:
            for number in range(2):
                with contextlib.suppress(Exception):
                    made.join(number)
            await network.stop()


async def test_the_call_of_a_host_that_is_cut_off_goes_on_at_the_other(network: Network) -> None:
    source = Source(network.urls, "c1", words_and_moments, patience_s=PATIENCE_S)
    agents = [Agent(url, "c1") for url in network.urls]
    work = [asyncio.create_task(one.run()) for one in (source, *agents)]
    log = RedisLog(network.redis_url, timeout_s=5, scripts=SCRIPTS)
    await log.start()
    try:
        await source.speaks(10)
        owner = 0 if network.hosts.address(0) in await lease(log) else 1
        network.hosts.cut_off(owner)
        begun_s = time.monotonic()
        async with asyncio.timeout(30):
            while network.hosts.address(1 - owner) not in await lease(log):
                await asyncio.to_thread(time.sleep, 0.02)  # Redis tells nobody of a lease
        taken_s = time.monotonic() - begun_s
        await source.speaks(10)
        print(f"\ntaken over within {taken_s:.2f} s; longest silence of the source {source.longest_silence_s:.2f} s")
        assert taken_s <= TAKEN_OVER_WITHIN_S
        network.hosts.join(owner)
        await source.speaks(10)
        source.hanging_up.set()
        async with asyncio.timeout(60):  # the one at the cut-off host comes back by TCP's own retransmissions
            await asyncio.gather(*work)
        recovery = await log.recover(CALL, None)
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await log.stop()
    said = [json.loads(entry.body)["d"] for entry in recovery.snapshot if entry.kind == "transcript"]
    assert {one["utterance_id"]: one["text"] for one in said} == source.acked
    for agent in agents:
        assert agent.words == source.acked
        assert agent.ends == 1
        assert agent.cards.keys() <= {"keep-1"}
    await network.stop()  # both outboxes are drained
    store = SqlStore(network.store_url)
    await store.start()
    stored = await store.conversation(CALL.tenant_id, "c1")
    await store.stop()
    assert stored is not None
    assert {one["utterance_id"]: one["text"] for one in stored["utterances"]} == source.acked
    assert stored["state"] == "ended"
    assert [card["action_id"] for card in stored["actions"]] == ["keep-1"]


async def test_a_telephony_call_whose_owner_is_cut_off_is_heard_whole(network: Network) -> None:
    dialect, log = AudioHookDialect(), RedisLog(network.redis_url, timeout_s=5, scripts=SCRIPTS)
    await log.start()
    try:
        words = await own(network.urls[0], "c1")
        async with connect(network.urls[1] + dialect.path, compression=None, proxy=None) as socket:
            vendor = Vendor(socket, dialect, "c1")
            await vendor.start()
            await vendor.speak(3)
            await leave(words)
            assert network.hosts.address(0) in await lease(log)
            speaking = asyncio.create_task(vendor.speak(14))
            network.hosts.cut_off(0)
            await speaking
            assert network.hosts.address(1) in await lease(log)
            assert await vendor.hang_up() == 1000
        network.hosts.join(0)
        await check(log, "c1", vendor.seconds)
    finally:
        await log.stop()


async def lease(log: RedisLog) -> str:
    found = await log.link.run("GET", Keys.of(CALL).lease)
    return (found or b"").decode()
