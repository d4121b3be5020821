"""A process that records what it is told to and says what was acknowledged, until it is killed. See `test_kill`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from server.keys.keyring import Keyring
from server.keys.local import LocalKeys
from server.log.embedded import EmbeddedLog
from server.store.outbox import Outbox
from server.store.sql import SqlStore
from tests.server.log.events import CALL, transcript
from tests.server.store.records import TENANT, utterance


async def ring(folder: Path) -> Keyring:
    """A keyring of a process that lives in this folder."""
    keys = Keyring(LocalKeys(folder / "keys"))
    await keys.check([TENANT, CALL.tenant_id])
    return keys


async def main(folder: Path, first: int) -> None:
    keys = await ring(folder)
    store = SqlStore(f"sqlite+aiosqlite:///{folder / 'cueline.db'}", keys=keys)
    await store.start()
    log = EmbeddedLog(folder / "log", keys=keys)
    await log.start()
    outbox = Outbox(folder / "outbox", store, keys=keys)
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
