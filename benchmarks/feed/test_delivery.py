"""500 agents on 500 calls, one transcript update a second and three actions a minute each, feed only.

Open loop: arrivals follow a fixed schedule, so a stall shows in the tail. Delay is publication (`t8`) to arrival in
the readers' process, on one clock. Bias: readers, server and publisher share the machine. The limit is the
requirement's own `socket` row. Source: issue "Durable, many-process, multi-tenant".
"""

from __future__ import annotations

import asyncio
import os
import platform
import random
from pathlib import Path

import pytest
import uvloop

from benchmarks.feed.running import TENANT, event, feed_server, swarm_process
from server.config.budget import load_budget
from server.config.settings import PROJECT_ROOT
from server.log.contract import ChannelKey, Event
from server.wire.clock import Stamps
from server.wire.publication import Action

CALLS = 500
SECONDS = 6
PER_CALL_PER_S = 1 + 3 / 60


def action(number: int) -> Event:
    payload = Action(
        id=f"a{number}", revision=1, type="hint", title="Offer the reset walk-through", state="new", priority=5,
        ttl_ms=90_000, body="Settings, vehicle, maintenance, reset.",
    )  # fmt: skip
    return Event(payload, Stamps())


async def measure(folder: Path) -> list[float]:
    rng = random.Random(5)
    async with feed_server(folder) as feed, swarm_process() as swarm:
        await swarm.command("open", "agents", feed.port, "/v1/feed", CALLS, "call:*", *feed.tickets(CALLS))
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        num = int(CALLS * PER_CALL_PER_S * SECONDS)
        for number in range(num):
            key = ChannelKey(TENANT, f"call:{rng.randrange(CALLS)}")
            await asyncio.sleep(max(0.0, start_s + number * SECONDS / num - loop.time()))
            await feed.log.append(key, [action(number) if rng.random() < 3 / 63 else event(number)])
        while len(delays := await swarm.command("delays", "agents")) < num:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)
    return sorted(delays)


@pytest.mark.gate
def test_500_agents_are_served_within_the_socket_budget(tmp_path: Path) -> None:
    delays = uvloop.run(measure(tmp_path))
    limit_ms = load_budget(PROJECT_ROOT / "graphs").stages["socket"]
    p50, p95, p99 = (delays[int(len(delays) * share)] for share in (0.5, 0.95, 0.99))
    print(f"\npublication to reader, {CALLS} agents on {CALLS} calls ({platform.machine()}, {os.cpu_count()} cores)")
    print(
        f"  p50 {p50:.2f}  p95 {p95:.2f}  p99 {p99:.2f}  max {delays[-1]:.2f} ms, n={len(delays)}, limit {limit_ms:g}"
    )
    assert p99 <= limit_ms
