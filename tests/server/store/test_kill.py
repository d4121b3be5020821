from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from server.log.embedded import EmbeddedLog
from server.store.outbox import Outbox
from server.store.sql import SqlStore
from tests.server.log.events import CALL, offsets
from tests.server.store.killed import ring
from tests.server.store.records import TENANT

NUM_KILLS = 8


def live_and_be_killed(folder: Path, first: int, after_s: float) -> set[int]:
    """Numbers that were acknowledged before the process died of a signal it cannot see coming."""
    command = [sys.executable, "-m", "tests.server.store.killed", str(folder), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        killer = threading.Timer(after_s, process.kill)
        killer.start()
        lines = process.stdout.read().splitlines(keepends=True)
        killer.join()
    return {int(line) for line in lines if line.endswith(b"\n")}


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
async def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    chance = random.Random(7)
    acknowledged: set[int] = set()
    for kill in range(NUM_KILLS):
        acknowledged |= live_and_be_killed(tmp_path, kill * 100_000, chance.uniform(0.02, 0.6))
    assert b"oil light" not in on_disk(tmp_path)
    keys = await ring(tmp_path)
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'cueline.db'}", keys=keys)
    await store.start()
    outbox = Outbox(tmp_path / "outbox", store, keys=keys)
    await outbox.start()
    await outbox.drained()
    stored = await store.revisions(TENANT, "c1")
    assert acknowledged
    assert {f"u{number}" for number in acknowledged} <= stored.keys()
    log = EmbeddedLog(tmp_path / "log", keys=keys)
    await log.start()
    entries = await log.read(CALL, None, 10**9)
    assert offsets(entries) == list(range(1, len(entries) + 1))
    await log.stop()
    await outbox.stop()
    await store.stop()
