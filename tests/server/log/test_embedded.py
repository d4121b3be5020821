from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from server.keys.keyring import Keyring
from server.keys.local import LocalKeys
from server.log.contract import ChannelKey, Entry, Event
from server.log.embedded import EmbeddedLog, LogLimits
from server.log.files import ChannelFiles, Job
from server.wire.errors import ConfigError, Unavailable
from server.wire.ids import TenantId
from tests.examples import examples
from tests.server.log.contract_suite import CutClients, EventLogSuite, LogHarness
from tests.server.log.events import AGENT, CALL, action, call, content, folded, offsets, transcript
from tests.virtual_time import virtual_time

SMALL = LogLimits(linger_s=0, max_tail_bytes=1500, retry_cap_s=0.01)


def copy_if_there(source: str, target: str) -> None:
    """The log goes on while its folder is copied."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(source, target)


async def ring(folder: Path) -> Keyring:
    keys = Keyring(LocalKeys(folder))
    await keys.check([CALL.tenant_id, TenantId("retail_bank")])
    return keys


class EmbeddedHarness:
    """Crashes by going on with a copy of the folder, taken while the log runs. Every life has a keyring of its own."""

    def __init__(self, folder: Path, limits: LogLimits = SMALL, *, is_sealed: bool = True) -> None:
        self.folder = folder
        self.limits = limits
        self.is_sealed = is_sealed
        self.life = 0
        self.log: EmbeddedLog

    async def start(self) -> EmbeddedLog:
        keys = await ring(self.folder / "keys") if self.is_sealed else None
        self.log = EmbeddedLog(self.folder / str(self.life), limits=self.limits, keys=keys)
        await self.log.start()
        return self.log

    async def restart(self) -> EmbeddedLog:
        await self.log.stop()
        return await self.start()

    async def crash(self) -> EmbeddedLog:
        after = self.folder / str(self.life + 1)
        shutil.copytree(self.folder / str(self.life), after, copy_function=copy_if_there)
        await self.log.stop()
        self.life += 1
        return await self.start()

    async def stop(self) -> None:
        await self.log.stop()


@pytest.fixture(params=[(SMALL, True), (LogLimits(), False)], ids=["small", "default"])
async def harness(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LogHarness]:
    limits, is_sealed = request.param
    harness = EmbeddedHarness(tmp_path, limits, is_sealed=is_sealed)
    yield harness
    await harness.stop()


class TestContract(EventLogSuite):
    pass


OTHER = ChannelKey(TenantId("car_service"), "call:other")


class EmbeddedClients(CutClients):
    def make_harness(self) -> LogHarness:
        self.folder = tempfile.TemporaryDirectory()
        return EmbeddedHarness(Path(self.folder.name))

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


TestCutClients = pytest.mark.slow(EmbeddedClients.TestCase)
TestCutClients.settings = settings(max_examples=examples(30), stateful_step_count=30, deadline=None)


class Disk:
    """Fails on demand, in the log's own thread."""

    def __init__(self) -> None:
        self.fails = False
        real = ChannelFiles.write

        def write(files: ChannelFiles, jobs: Sequence[Job]) -> None:
            if self.fails:
                raise OSError(errno.ENOSPC, "no space")
            real(files, jobs)

        self.patch = mock.patch.object(ChannelFiles, "write", write)


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    with disk.patch:
        yield disk


class ClientsOnABadDisk(EmbeddedClients):
    """As above, while the disk comes and goes and the writer's queue is too small."""

    def make_harness(self) -> LogHarness:
        self.disk = Disk()
        self.disk.patch.start()
        self.folder = tempfile.TemporaryDirectory()
        return EmbeddedHarness(Path(self.folder.name), replace(SMALL, max_unwritten_bytes=2500))

    def teardown(self) -> None:
        self.disk.fails = False
        super().teardown()
        self.disk.patch.stop()

    @rule(fails=st.booleans())
    def disk_changes(self, fails: bool) -> None:
        self.disk.fails = fails

    @rule()
    def restart(self) -> None:
        # A log that cannot be written to its end starts like one that crashed.
        if self.disk.fails:
            self.crash()
        else:
            super().restart()

    @rule()
    def forget(self) -> None:
        if not self.disk.fails:
            self.runner.run(self.durable())
            super().forget()

    async def durable(self) -> None:
        """Wait until a disk that works again is known to."""
        while True:
            with contextlib.suppress(Unavailable):
                await self.log.trim(OTHER)
                return
            await asyncio.sleep(0.001)


TestClientsOnABadDisk = pytest.mark.slow(ClientsOnABadDisk.TestCase)
TestClientsOnABadDisk.settings = settings(max_examples=examples(30), stateful_step_count=30, deadline=None)


async def started(folder: Path, limits: LogLimits = SMALL, **options: object) -> EmbeddedLog:
    log = EmbeddedLog(folder, limits=limits, **options)  # type: ignore[arg-type]
    await log.start()
    return log


def channel_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.log"))


def words(number: int) -> list[Event]:
    return [transcript(f"u{n}", n + 1, f"words {n}", final=True) for n in range(number)]


@virtual_time
async def test_a_broken_follower_costs_nobody_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = await started(tmp_path)
    seen: list[Entry] = []

    def broken(_: Sequence[Entry]) -> None:
        raise ValueError("a bug")

    log.follow(CALL, broken)
    log.follow(CALL, seen.extend)
    await log.append(CALL, words(2))
    assert offsets(seen) == [1, 2]
    assert "a follower failed" in caplog.text
    await log.stop()


@virtual_time
async def test_an_old_position_is_answered_from_the_disk(tmp_path: Path) -> None:
    log = await started(tmp_path)
    said: list[Entry] = []
    for event in words(100):
        said += await log.append(CALL, [event])
        await asyncio.sleep(0.01)
    first = said[0].position
    recovery = await log.recover(CALL, first)
    assert recovery.recovered
    assert content(recovery.tail) == content(said[1:])
    assert content((await log.recover(CALL, None)).snapshot) == content(said)
    assert content(await log.read(CALL, first, 7)) == content(said[1:8])
    await log.stop()


@virtual_time
async def test_a_reader_too_far_behind_gets_the_snapshot(tmp_path: Path) -> None:
    log = await started(tmp_path, replace(SMALL, max_recovery_entries=5))
    said = await log.append(CALL, words(10))
    assert not (await log.recover(CALL, said[3].position)).recovered
    assert (await log.recover(CALL, said[4].position)).recovered
    await log.stop()


@virtual_time
async def test_idle_channels_leave_memory_and_come_back(tmp_path: Path) -> None:
    now_s = 0.0
    log = await started(tmp_path, replace(SMALL, idle_s=50, sweep_s=10), now_s=lambda: now_s)
    said = await log.append(CALL, words(3))
    end = log.follow(AGENT, lambda _: None)
    await log.append(AGENT, [call()])
    await log.recover(ChannelKey(TenantId("t"), "call:never"), None)
    now_s = 100.0
    await asyncio.sleep(30)
    assert log.counters.evicted == 2, "the followed one stays"
    recovery = await log.recover(CALL, said[0].position)
    assert recovery.recovered
    assert offsets(recovery.tail) == [2, 3]
    (more,) = await log.append(CALL, [action()])
    assert more.position.offset == 4
    assert more.position.epoch == said[0].position.epoch
    end()
    assert {key async for key in log.channels()} == {CALL, AGENT}
    await log.stop()


@virtual_time
async def test_a_channel_does_not_leave_memory_before_the_disk_has_it(tmp_path: Path, disk: Disk) -> None:
    """Its file says that nothing is missing, which was true when it left memory the time before."""
    now_s = 0.0
    log = await started(tmp_path, replace(SMALL, idle_s=50, sweep_s=10), now_s=lambda: now_s)
    said = [*await log.append(CALL, words(3))]
    now_s = 100.0
    await asyncio.sleep(30)
    assert log.counters.evicted == 1
    said += await log.append(CALL, words(1))
    await log._writer.committed()
    disk.fails = True
    said += await log.append(CALL, words(2))
    now_s = 200.0
    await asyncio.sleep(30)
    said += await log.append(CALL, words(1))
    assert [entry.position.offset for entry in said] == [1, 2, 3, 4, 5, 6, 7]
    disk.fails = False
    now_s = 300.0
    await asyncio.sleep(30)
    assert log.counters.evicted == 2
    recovery = await log.recover(CALL, said[0].position)
    assert (recovery.recovered, content(recovery.tail)) == (True, content(said[1:]))
    await log.stop()


@virtual_time
async def test_what_is_too_old_is_forgotten_but_never_a_live_call(tmp_path: Path) -> None:
    log = await started(tmp_path, replace(SMALL, idle_s=1e9, sweep_s=10, retention_s=3600))
    await log.append(CALL, words(3))
    await log.append(AGENT, [call()])
    await log.stop()
    for path in channel_files(tmp_path):
        os.utime(path, (1e9, 1e9))
    log = await started(tmp_path, replace(SMALL, idle_s=1e9, sweep_s=10, retention_s=3600))
    await log.read(CALL, None, 1)
    await asyncio.sleep(25)
    assert {key async for key in log.channels()} == {CALL}
    assert [path.name for path in channel_files(tmp_path)] == ["call:c1.log"]
    assert log.counters.forgotten == 1
    await log.stop()


@pytest.mark.slow
@virtual_time
async def test_a_full_disk_is_told_and_the_log_goes_on(tmp_path: Path, disk: Disk) -> None:
    told: list[str] = []
    log = await started(tmp_path, on_notice=lambda notice: told.append(notice.code))
    said = [*await log.append(CALL, words(2))]
    disk.fails = True
    said += await log.append(CALL, words(5))
    await asyncio.sleep(60)
    assert told == ["log_not_durable"]
    recovery = await log.recover(CALL, said[0].position)
    assert content(recovery.tail) == content(said[1:])
    disk.fails = False
    await asyncio.sleep(60)
    assert told == ["log_not_durable", "log_durable"]
    await log.stop()
    log = await started(tmp_path)
    assert content((await log.recover(CALL, said[0].position)).tail) == content(said[1:])
    await log.stop()


@virtual_time
async def test_what_the_writer_had_no_room_for_is_written_before_the_end(tmp_path: Path) -> None:
    log = await started(tmp_path, replace(SMALL, max_unwritten_bytes=2000, max_tail_bytes=100_000))
    keys = [ChannelKey(TenantId("t"), f"call:{number}") for number in range(6)]
    said = {key: await log.append(key, words(9)) for key in keys}
    await log.stop()
    log = await started(tmp_path)
    for key in keys:
        recovery = await log.recover(key, said[key][0].position)
        assert (recovery.recovered, content(recovery.tail)) == (True, content(said[key][1:]))
    await log.stop()


@virtual_time
async def test_while_the_disk_is_away_memory_stays_bounded(tmp_path: Path, disk: Disk) -> None:
    limits = replace(SMALL, max_unwritten_bytes=5000)
    log = await started(tmp_path, limits)
    disk.fails = True
    said: list[Entry] = []
    for event in words(200):
        said += await log.append(CALL, [event])
    old, new = said[0].position, said[-3].position
    assert not (await log.recover(CALL, old)).recovered, "let go, and told so"
    assert content((await log.recover(CALL, new)).tail) == content(said[-2:])
    assert folded((await log.recover(CALL, None)).snapshot) == folded(said)
    disk.fails = False
    await asyncio.sleep(60)
    await log.stop()
    log = await started(tmp_path, limits)
    recovery = await log.recover(CALL, new)
    assert recovery.recovered
    assert content(recovery.tail) == content(said[-2:])
    assert folded((await log.recover(CALL, None)).snapshot) == folded(said)
    await log.stop()


@virtual_time
async def test_stopping_on_a_bad_disk_is_told_to_the_clients(tmp_path: Path, disk: Disk) -> None:
    log = await started(tmp_path)
    said = [*await log.append(CALL, words(2))]
    await asyncio.sleep(1)
    disk.fails = True
    said += await log.append(CALL, words(1))
    await log.stop()
    disk.fails = False
    log = await started(tmp_path)
    recovery = await log.recover(CALL, said[1].position)
    assert not recovery.recovered
    assert content(recovery.snapshot) == content(said[:2])
    await log.stop()


@virtual_time
async def test_a_channel_that_cannot_be_read_does_not_stop_a_live_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = await started(tmp_path)
    said = await log.append(CALL, words(3))
    await log.stop()
    log = await started(tmp_path)
    with mock.patch.object(ChannelFiles, "read", side_effect=OSError(errno.EIO, "bad sector")):
        with pytest.raises(Unavailable):
            await log.recover(CALL, None)
        (entry,) = await log.append(CALL, [action()])
    assert entry.position.epoch != said[0].position.epoch
    assert not (await log.recover(CALL, said[0].position)).recovered
    assert "cannot be read" in caplog.text
    await log.stop()
    log = await started(tmp_path)
    recovery = await log.recover(CALL, said[0].position)
    assert not recovery.recovered, "something was shown that is not here"
    assert content(recovery.snapshot) == content(said)
    await log.stop()


@virtual_time
async def test_damage_is_loud_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = await started(tmp_path)
    said: list[Entry] = []
    for event in words(5):
        said += await log.append(CALL, [event])
        await asyncio.sleep(0.01)
    await log.stop()
    (path,) = channel_files(tmp_path)
    spoiled = path.read_bytes().replace(b"words 2", b"wordz 2")
    path.write_bytes(spoiled)
    with caplog.at_level(logging.ERROR):
        log = await started(tmp_path)
        recovery = await log.recover(CALL, said[0].position)
    assert not recovery.recovered
    assert offsets(recovery.snapshot) == [1, 2, 4, 5]
    assert "damaged" in caplog.text
    assert "words" not in caplog.text
    await log.stop()


@virtual_time
async def test_a_file_that_was_cut_behind_the_logs_back_is_told(tmp_path: Path) -> None:
    log = await started(tmp_path)
    said: list[Entry] = []
    for event in words(30):
        said += await log.append(CALL, [event])
        await asyncio.sleep(0.01)
    (path,) = channel_files(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    recovery = await log.recover(CALL, said[0].position)
    assert not recovery.recovered
    assert content(recovery.snapshot) == content(said), "memory has all states"
    await log.stop()


async def test_a_folder_in_use_refuses_the_start(tmp_path: Path) -> None:
    log = await started(tmp_path)
    with pytest.raises(ConfigError, match="another process") as caught:
        await started(tmp_path)
    assert caught.value.field == str(tmp_path)
    await log.stop()


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        await started(tmp_path / "file")
    assert caught.value.field == str(tmp_path / "file")
