"""A process that records what it is told to and says what was acknowledged, until it is killed. See `test_kill`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from server.log.embedded import EmbeddedLog
from server.store.outbox import Outbox
from server.store.sql import SqlStore
from tests.server.log.events import CALL, transcript
from tests.server.store.records import utterance


async def main(folder: Path, first: int) -> None:
    store = SqlStore(f"sqlite+aiosqlite:///{folder / 'cueline.db'}")
    await store.start()
    log = EmbeddedLog(folder / "log")
    await log.start()
    outbox = Outbox(folder / "outbox", store)
    await outbox.start()
    os.write(1, b"ready\n")
    number = first
    while True:
        batch = range(number, number + 1 + number % 5)
        done = [outbox.put(utterance(f"u{n}", final=True)) for n in batch]
        await log.append(CALL, [transcript(f"u{n}", final=True) for n in batch])
        for n, acknowledged in zip(batch, done, strict=True):
            await acknowledged
            os.write(1, b"%d\n" % n)
        number = batch.stop


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
