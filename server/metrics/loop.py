"""Is the event loop free? Measured by how late a timer comes."""

from __future__ import annotations

import asyncio

from server.metrics import Metrics

INTERVAL_S = 0.1


async def watch_loop(metrics: Metrics) -> None:
    """Observe the lateness of a timer until cancelled; whatever blocks the loop shows in it."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        metrics.loop_lag.observe(max(0.0, loop.time() - due_s))
