"""What the seal costs an append to the embedded log: CPU time with a key over CPU time without, in the same run."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from pathlib import Path

import pytest
import uvloop

from benchmarks.feed.running import TENANT, event, keyring
from server.keys.keyring import Keyring
from server.log.contract import ChannelKey
from server.log.embedded import EmbeddedLog, LogLimits

CALLS, APPENDS, EVENTS, ROUNDS = 50, 4000, 3, 3
MEMORY = os.urandom(6000)
"""As much as a call's memory is, packed; it goes with every twentieth append."""
MAX_RATIO = 1.3


async def cpu_us(folder: Path, keys: Keyring | None) -> tuple[float, float]:
    """Microseconds an append of the loop's thread, and of all threads together until the disk has it."""
    log = EmbeddedLog(folder, limits=LogLimits(linger_s=0.002), keys=keys)
    await log.start()
    channels = [ChannelKey(TENANT, f"call:{number}") for number in range(CALLS)]
    events = [event(number) for number in range(EVENTS)]
    for key in channels:
        await log.append(key, events)
    await log.trim(ChannelKey(TENANT, "call:none"))  # all before it is written
    loop_s, all_s = time.thread_time(), time.process_time()
    for number in range(APPENDS):
        await log.append(channels[number % CALLS], events, b"" if number % 20 else MEMORY)
        if number % 10 == 0:
            await asyncio.sleep(0.003)  # so that it is written in many batches, as live calls are
    await log.trim(ChannelKey(TENANT, "call:none"))
    loop_s, all_s = time.thread_time() - loop_s, time.process_time() - all_s
    await log.stop()
    return 1e6 * loop_s / APPENDS, 1e6 * all_s / APPENDS


@pytest.mark.gate
def test_sealing_an_append_costs_little(tmp_path: Path) -> None:
    """The best round of each counts: what else runs on the machine only ever adds."""

    async def measure(number: int) -> tuple[tuple[float, float], tuple[float, float]]:
        folder = tmp_path / str(number)
        return await cpu_us(folder / "clear", None), await cpu_us(folder / "log", await keyring(folder))

    rounds = [uvloop.run(measure(number)) for number in range(ROUNDS)]
    clear, sealed = (tuple(map(min, zip(*runs, strict=True))) for runs in zip(*rounds, strict=True))
    print(f"\nan append of {EVENTS} events, microseconds of CPU ({platform.machine()}, {os.cpu_count()} cores)")
    for name, (loop, every) in (("in the clear", clear), ("sealed", sealed)):
        print(f"  {name:<13} loop {loop:6.1f}  all threads {every:6.1f}")
    print(f"  ratio of all threads {sealed[1] / clear[1]:.2f}  (at most {MAX_RATIO})")
    assert sealed[1] <= MAX_RATIO * clear[1]
