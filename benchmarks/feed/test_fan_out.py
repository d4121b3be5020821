"""One channel to 500 readers: the whole feed against bare `websockets.broadcast()`, CPU time of the server alone.

Ours does more for a message (it numbers, encodes, logs, and checks each reader's position and room) and less for a
reader (the frame is built once for all of them). Bias: both run in one process on uvloop without compression, taking
turns; readers are in a second process and parse nothing; publishing waits for them every 20 messages, so neither side
ever queues. Source: issue "Durable, many-process, multi-tenant", target 0.8.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.frames import Frame, Opcode

from benchmarks.feed.running import TENANT, Swarm, event, feed_server, swarm_process
from server.log.contract import ChannelKey

READERS = 500
BATCH = 20
BATCHES = 5
ROUNDS = 3
TARGET_RATIO = 0.8

KEY = ChannelKey(TENANT, "call:1")


async def cpu_s_of(publish: Callable[[], Awaitable[int]], swarm: Swarm, name: str) -> float:
    """CPU seconds of this process for one round; `publish` returns the bytes that each reader will get."""
    before_s = time.process_time()
    for _ in range(BATCHES):
        expected = 0
        for _ in range(BATCH):
            expected += await publish()
            await asyncio.sleep(0)
        await swarm.command("expect", name, expected * READERS)
    return time.process_time() - before_s


async def measure(folder: Path) -> tuple[list[float], list[float]]:
    closing = asyncio.Event()
    sockets: set[ServerConnection] = set()

    async def handler(connection: ServerConnection) -> None:
        sockets.add(connection)
        await closing.wait()

    async with (
        feed_server(folder) as feed,
        swarm_process() as swarm,
        serve(handler, "127.0.0.1", 0, compression=None, ping_interval=None) as bare,
    ):
        log = feed.log
        await swarm.command("open", "feed", feed.port, "/v1/feed", READERS, "call:1", *feed.tickets(READERS))
        await swarm.command("open", "bare", next(iter(bare.sockets)).getsockname()[1], "/", READERS)
        number = 0

        async def publish_feed() -> int:
            nonlocal number
            number += 1
            (entry,) = await log.append(KEY, [event(number)])
            return len(Frame(Opcode.TEXT, entry.body).serialize(mask=False))

        (sample,) = await log.append(ChannelKey(TENANT, "call:2"), [event(1)])
        text = sample.body.decode()
        frame_bytes = len(Frame(Opcode.TEXT, sample.body).serialize(mask=False))

        async def publish_bare() -> int:
            broadcast(sockets, text)
            return frame_bytes

        ours, theirs = [], []
        for round_number in range(ROUNDS + 1):
            ours_s = await cpu_s_of(publish_feed, swarm, "feed")
            theirs_s = await cpu_s_of(publish_bare, swarm, "bare")
            if round_number:  # the first warms up
                ours.append(READERS * BATCH * BATCHES / ours_s)
                theirs.append(READERS * BATCH * BATCHES / theirs_s)
        assert feed.endpoint.num_sockets == READERS
        closing.set()
    return ours, theirs


@pytest.mark.gate
def test_fan_out_is_not_dearer_than_bare_broadcast(tmp_path: Path) -> None:
    ours, theirs = uvloop.run(measure(tmp_path))
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"\nfan-out to {READERS} readers, messages per CPU-second ({platform.machine()}, {os.cpu_count()} cores)")
    for name, rates in (("feed", ours), ("websockets.broadcast", theirs)):
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        print(f"  {name:<21}{statistics.median(rates):>10,.0f}   ({spread}, n={len(rates)})")
    print(f"  ratio                {ratio:>10.2f}   (at least {TARGET_RATIO})")
    assert ratio >= TARGET_RATIO
