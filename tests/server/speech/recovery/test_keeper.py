from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from server.speech.recovery.keeper import AudioGone, Keeper
from server.speech.recovery.settings import RecoverySettings
from server.speech.recovery.spool import Spool

RATE_HZ = 1_000


def audio(from_s: float, to_s: float) -> bytes:
    return (np.arange(int(from_s * RATE_HZ), int(to_s * RATE_HZ)) % 32_000).astype(np.int16).tobytes()


async def read_all(keeper: Keeper) -> bytes:
    found, position = b"", keeper.start
    while pcm := await keeper.read(position, 700):
        found += pcm
        position += len(pcm) // 2
    return found


def settings(folder: Path, ring_s: float = 3, spool_s: float = 10) -> RecoverySettings:
    return RecoverySettings(ring_s=ring_s, spool_s=spool_s, spool_folder=str(folder))


async def test_what_the_ring_cannot_hold_is_read_from_the_spool(tmp_path: Path) -> None:
    keeper = Keeper(RATE_HZ, settings(tmp_path))
    for second in np.arange(0, 9, 0.25):
        await keeper.append(audio(second, second + 0.25))
    assert keeper.start == 0
    assert await read_all(keeper) == audio(0, 9)
    keeper.forget(4_321)
    assert await read_all(keeper) == audio(4.321, 9)
    keeper.forget(8_500)
    await keeper.append(audio(9, 18))
    assert await read_all(keeper) == audio(8.5, 18)
    keeper.close()
    assert await read_all(keeper) == b""


async def test_more_than_there_is_cannot_be_forgotten(tmp_path: Path) -> None:
    keeper = Keeper(RATE_HZ, settings(tmp_path))
    await keeper.append(audio(0, 1))
    keeper.forget(1_016)
    await keeper.append(audio(1, 2))
    assert await read_all(keeper) == audio(1, 2)
    keeper.close()


async def test_a_full_spool_gives_up_the_oldest(tmp_path: Path) -> None:
    keeper = Keeper(RATE_HZ, settings(tmp_path, spool_s=4))
    await keeper.append(audio(0, 20))
    assert keeper.end - keeper.start <= (3 + 1 + 4) * RATE_HZ
    assert await read_all(keeper) == audio(keeper.start / RATE_HZ, 20)
    keeper.close()


async def test_a_disk_that_fails_costs_only_what_was_on_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper(RATE_HZ, RecoverySettings(ring_s=3, spool_folder=str(tmp_path / "missing")))
    await keeper.append(audio(0, 9))
    assert await read_all(keeper) == audio(keeper.start / RATE_HZ, 9)
    assert keeper.end - keeper.start >= 3 * RATE_HZ
    assert "audio cannot be spooled" in caplog.text
    keeper.close()


async def test_bytes_that_were_changed_are_not_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(RATE_HZ, settings(tmp_path))
    await keeper.append(audio(0, 9))
    sound = Spool.read

    def tampered(spool: Spool, number: int) -> bytes:
        spool._file.seek(10)
        spool._file.write(b"\0\0\0")
        return sound(spool, number)

    monkeypatch.setattr(Spool, "read", tampered)
    with pytest.raises(AudioGone):
        await keeper.read(0, 700)
    assert keeper.start == RATE_HZ
    assert await read_all(keeper) == audio(1, 9)
    with pytest.raises(AudioGone):
        await keeper.read(500, 700)
    keeper.close()


async def test_reading_while_the_oldest_second_goes_to_disk(tmp_path: Path) -> None:
    keeper = Keeper(RATE_HZ, settings(tmp_path))
    await keeper.append(audio(0, 4))
    _, first = await asyncio.gather(keeper.append(audio(4, 5)), keeper.read(0, 700))
    assert first == audio(0, 0.7)
    keeper.close()


def test_what_is_on_disk_is_not_what_was_said(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), 2_000, 3)
    spool.append(audio(0, 1))
    spool._file.seek(0)
    assert not list(tmp_path.iterdir()), "the file has no name"
    assert audio(0, 1)[:100] not in spool._file.read()
    assert spool.read(0) == audio(0, 1)
    spool.close()
    spool.close()
