"""What Redis adds between a publication and the socket of its reader, over the embedded log in the same run.

Two feeds of one process take turns, one on each log: 100 calls, 100 publications a second, open loop; the Redis log
appends through a real server on loopback and its readers hang on the same process, as an owner's do, or on a second
log, as those of any other process. Delay is publication (`t8`) to arrival in the readers' process. Bias: readers,
Redis and both feeds share the machine. Source: issue "Durable, many-process, multi-tenant".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from benchmarks.feed.running import TENANT, event, feed_on, keyring, swarm_process
from server.log.contract import ChannelKey, EventLog
from server.log.embedded import EmbeddedLog
from server.log.redis import RedisLog
from tests.server.log.redis_server import redis_server

CALLS = 100
PER_S = 100
SECONDS = 4
ATTEMPTS = 3
ADDED_P50_MS, ADDED_P99_MS = 3.0, 10.0


@contextlib.asynccontextmanager
async def started(log: EmbeddedLog | RedisLog) -> AsyncIterator[EmbeddedLog | RedisLog]:
    await log.start()
    try:
        yield log
    finally:
        await log.stop()


async def delays_of(writer: EventLog, reader: EventLog) -> list[float]:
    rng = random.Random(5)
    async with feed_on(reader) as feed, swarm_process() as swarm:
        await swarm.command("open", "agents", feed.port, "/v1/feed", CALLS, "call:*", *feed.tickets(CALLS))
        loop = asyncio.get_running_loop()
        start_s, num = loop.time(), PER_S * SECONDS
        pending: set[asyncio.Task[object]] = set()
        for number in range(num):
            key = ChannelKey(TENANT, f"call:{rng.randrange(CALLS)}")
            await asyncio.sleep(max(0.0, start_s + number / PER_S - loop.time()))
            pending.add(asyncio.create_task(writer.append(key, [event(number)])))  # type: ignore[arg-type]
        await asyncio.gather(*pending)
        deadline_s = time.monotonic() + 20
        while len(delays := await swarm.command("delays", "agents")) < num:
            assert time.monotonic() < deadline_s, f"{num - len(delays)} publications did not arrive"
            await asyncio.sleep(0.1)
    return sorted(delays)


async def measure(folder: Path, url: str) -> dict[str, list[float]]:
    keys = folder.parent  # what an attempt before this one left in Redis is read again
    async with (
        started(EmbeddedLog(folder / "log", keys=await keyring(keys))) as embedded,
        started(RedisLog(url, timeout_s=5, keys=await keyring(keys))) as here,
        started(RedisLog(url, timeout_s=5, keys=await keyring(keys))) as there,
    ):
        return {
            "embedded": await delays_of(embedded, embedded),
            "redis, same process": await delays_of(here, here),
            "redis, other process": await delays_of(here, there),
        }


def at(delays: list[float], share: float) -> float:
    return delays[int(len(delays) * share)]


def added(found: dict[str, list[float]], share: float) -> float:
    """The most that Redis adds at this percentile, in either process."""
    base = at(found["embedded"], share)
    return max(at(delays, share) - base for name, delays in found.items() if name != "embedded")


@pytest.mark.gate
def test_redis_adds_little(tmp_path: Path) -> None:
    """The best of a few attempts counts: what else runs on the machine only ever adds."""
    with redis_server() as server:
        for attempt in range(ATTEMPTS):
            found = uvloop.run(measure(tmp_path / str(attempt), server.url))
            print(f"\npublication to reader, {CALLS} calls, {PER_S}/s ({platform.machine()}, {os.cpu_count()} cores)")
            for name, delays in found.items():
                p50, p95, p99 = (at(delays, share) for share in (0.5, 0.95, 0.99))
                print(f"  {name:<22} p50 {p50:5.2f}  p95 {p95:5.2f}  p99 {p99:6.2f} ms, n={len(delays)}")
            if added(found, 0.5) <= ADDED_P50_MS and added(found, 0.99) <= ADDED_P99_MS:
                return
    pytest.fail(f"Redis added {added(found, 0.5):.2f} ms p50 and {added(found, 0.99):.2f} ms p99")
