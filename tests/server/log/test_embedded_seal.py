"""What the embedded log leaves on the disk says nothing without the tenant's key; a key that is away stops no call."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from server.keys.keyring import Keyring
from server.keys.local import LocalKeys
from server.keys.provider import DataKey
from server.log.contract import ChannelKey, Entry, Event, Position
from server.log.embedded import EmbeddedLog, LogLimits
from server.log.files import ChannelFiles
from server.log.frames import Opened, Stored
from server.store.framing import frame, scan
from server.wire.errors import Conflict, Gone, Unavailable
from server.wire.ids import TenantId
from tests.examples import examples
from tests.server.log.contract_suite import LogHarness
from tests.server.log.events import CALL, action, content, folded, offsets, transcript
from tests.server.log.test_embedded import SMALL, Disk, EmbeddedClients, EmbeddedHarness, started
from tests.virtual_time import virtual_time

WORDS = "my card number is four thousand"
THEIRS = ChannelKey(TenantId("retail_bank"), "call:c1")


class Service(LocalKeys):
    """A key service that goes away: for everything, or for data keys of before alone."""

    is_away = False
    makes_keys = True

    async def create(self, tenant_id: TenantId) -> DataKey:
        if self.is_away and not self.makes_keys:
            raise Unavailable("away")
        return await super().create(tenant_id)

    async def unwrap(self, tenant_id: TenantId, wrapped: bytes) -> bytes:
        if self.is_away:
            raise Unavailable("away")
        return await super().unwrap(tenant_id, wrapped)


class Lives:
    """One folder, one life after the other, each with a keyring of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.service = Service(folder / "keys")
        self.keys: Keyring
        self.log: EmbeddedLog

    async def start(self, limits: LogLimits = SMALL) -> EmbeddedLog:
        self.keys = Keyring(self.service)
        await self.keys.check([CALL.tenant_id, THEIRS.tenant_id])
        self.log = await started(self.folder / "log", limits, keys=self.keys)
        return self.log

    def on_disk(self) -> bytes:
        return b"".join(path.read_bytes() for path in (self.folder / "log").rglob("*") if path.is_file())


@pytest.fixture
def lives(tmp_path: Path) -> Lives:
    return Lives(tmp_path)


def said(number: int, *, start: int = 0) -> list[Event]:
    return [transcript(f"u{n}", n + 1, f"{WORDS} {n}", final=True) for n in range(start, start + number)]


@virtual_time
async def test_no_word_is_on_the_disk_and_the_next_life_reads_all(lives: Lives) -> None:
    log = await lives.start()
    entries: list[Entry] = []
    for event in [*said(30), action()]:
        entries += await log.append(CALL, [event], WORDS.encode())
        await asyncio.sleep(0.01)
    assert content((await log.recover(CALL, entries[0].position)).tail) == content(entries[1:]), "from the disk"
    await log.stop()
    data = lives.on_disk()
    assert len(data) > 30 * 200
    assert not [word for word in (b"card", b"four", b"Offer it", b"transcript", b"utterance") if word in data]
    log = await lives.start()
    recovery = await log.recover(CALL, entries[0].position)
    assert recovery.recovered
    assert content(recovery.tail) == content(entries[1:])
    assert content((await log.recover(CALL, None)).snapshot) == content(entries)
    assert await log.memory(CALL) == WORDS.encode()
    await log.stop()
    keyless = await started(lives.folder / "log")
    with pytest.raises(Unavailable, match="no keys"):
        await keyless.recover(CALL, None)
    await keyless.stop()


@virtual_time
async def test_with_the_key_the_log_is_gone_from_disk_and_memory(lives: Lives) -> None:
    log = await lives.start()
    heard: list[Entry] = []
    log.follow(CALL, heard.extend)
    (entry, *_) = await log.append(CALL, said(3), WORDS.encode())
    theirs = await log.append(THEIRS, said(3))
    await lives.service.destroy(CALL.tenant_id)
    await lives.keys.check(())
    for read in (log.recover(CALL, None), log.recover(CALL, entry.position), log.read(CALL, None, 9), log.memory(CALL)):
        with pytest.raises(Gone):
            await read
    assert await log.append(CALL, said(1)) == ()
    assert len(heard) == 3
    assert content((await log.recover(THEIRS, None)).snapshot) == content(theirs)
    await asyncio.sleep(SMALL.sweep_s + 1)
    assert CALL not in log._channels, "words of a tenant without a key in memory"
    await log.stop()
    log = await lives.start()
    with pytest.raises(Gone):
        await log.recover(CALL, None)
    assert (await log.recover(THEIRS, theirs[0].position)).recovered, "the stop was a clean one"
    assert await log.trim(CALL) == 3
    assert {key async for key in log.channels()} == {THEIRS}
    await log.stop()


@virtual_time
@pytest.mark.parametrize("is_clean", [True, False])
async def test_a_call_goes_on_behind_a_file_whose_key_is_away(lives: Lives, is_clean: bool) -> None:
    log = await lives.start()
    before = await log.append(CALL, [*said(20), action("a1")], b"before")
    await log.trim(ChannelKey(CALL.tenant_id, "call:none"))  # all before it is written
    if is_clean:
        await log.stop()
    else:
        (lives.folder / "log").rename(lives.folder / "killed")
        await log.stop()
        (lives.folder / "killed").rename(lives.folder / "log")
    lives.service.is_away = True
    log = await lives.start()
    heard: list[Entry] = []
    log.follow(CALL, heard.extend)
    since: list[Entry] = []
    for event in [*said(15, start=20), action("a1", 2, "expire")]:
        since += await log.append(CALL, [event])
        await asyncio.sleep(0.01)
    assert heard == since
    assert offsets(since) == list(range(22, 38))
    assert (since[0].position.epoch == before[0].position.epoch) is is_clean
    for read in (log.recover(CALL, None), log.memory(CALL), log.read(CALL, None, 9)):
        with pytest.raises(Unavailable):
            await read
    known = since[-3].position
    assert content((await log.recover(CALL, known)).tail) == content(since[-2:]), "memory has it, no key is needed"
    lives.service.is_away = False
    all_said = [*before, *since]
    assert folded((await log.recover(CALL, None)).snapshot) == folded(all_said)
    assert ("action", "a1") not in folded((await log.recover(CALL, None)).snapshot)
    assert await log.memory(CALL) == b"before"
    assert content(await log.read(CALL, None, 99)) == content(all_said)
    await log.stop()
    log = await lives.start()
    assert content((await log.recover(CALL, Position(since[0].position.epoch, 5))).tail) == content(all_said[5:])
    await log.stop()


@virtual_time
async def test_what_is_said_before_there_is_a_key_is_kept_once_there_is_one(
    lives: Lives, caplog: pytest.LogCaptureFixture
) -> None:
    lives.service.is_away, lives.service.makes_keys = True, False
    log = await lives.start()
    heard: list[Entry] = []
    log.follow(CALL, heard.extend)
    entries = (*await log.append(CALL, said(2), b"memory"), *await log.append(CALL, said(1, start=2)))
    assert caplog.text.count("waits in memory for its tenant's key") == 1
    await asyncio.sleep(2 * SMALL.sweep_s)
    assert tuple(heard) == entries
    assert content((await log.recover(CALL, None)).snapshot) == content(entries)
    assert not list((lives.folder / "log").rglob("*.log"))
    lives.service.is_away = False
    await lives.keys.check([CALL.tenant_id])
    await asyncio.sleep(SMALL.sweep_s + 1)  # nobody says anything more
    assert list((lives.folder / "log").rglob("*.log"))
    await log.stop()
    assert b"card" not in lives.on_disk()
    log = await lives.start()
    assert content((await log.recover(CALL, Position(entries[0].position.epoch, 0))).tail) == content(entries)
    assert await log.memory(CALL) == b"memory"
    await log.stop()


@virtual_time
async def test_key_and_disk_away_at_once_lose_no_state_of_before(lives: Lives) -> None:
    log = await lives.start()
    before = await log.append(CALL, said(10))
    await log.stop()
    lives.service.is_away = True
    disk = Disk()
    with disk.patch:
        log = await lives.start(replace(SMALL, max_unwritten_bytes=2500))
        disk.fails = True
        since: list[Entry] = []
        for event in said(60, start=10):
            since += await log.append(CALL, [event])
        lives.service.is_away = disk.fails = False
        await asyncio.sleep(60)
        assert folded((await log.recover(CALL, None)).snapshot) == folded([*before, *since])
        with pytest.raises(Conflict):
            await log.read(CALL, before[0].position, 99)
        await log.stop()
    log = await lives.start()
    assert folded((await log.recover(CALL, None)).snapshot) == folded([*before, *since])
    assert content((await log.recover(CALL, since[-3].position)).tail) == content(since[-2:])
    await log.stop()


@virtual_time
async def test_what_somebody_changed_is_damage_and_no_position_before_it_is_good(
    lives: Lives, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checksum is right, for whoever can write a file can do sums; the seal is not."""
    log = await lives.start()
    entries: list[Entry] = []
    for event in said(4):
        entries += await log.append(CALL, [event])
        await asyncio.sleep(0.01)
    await log.stop()
    (path,) = (lives.folder / "log").glob("*/*.log")
    *others, last, complete = scan(path.read_bytes()).payloads
    path.write_bytes(b"".join(map(frame, [*others, last[:-1] + bytes([last[-1] ^ 1]), complete])))
    log = await lives.start()
    recovery = await log.recover(CALL, entries[0].position)
    assert not recovery.recovered
    assert content(recovery.snapshot) == content(entries[:3])
    assert recovery.position.offset == 4
    assert "damaged" in caplog.text
    (more,) = await log.append(CALL, said(1, start=4))
    assert content((await log.recover(CALL, recovery.position)).tail) == content([more])
    for entry in entries[:3]:
        assert not (await log.recover(CALL, entry.position)).recovered
    await log.stop()


@virtual_time
@pytest.mark.parametrize("is_destroyed", [False, True])
async def test_what_an_earlier_version_left_in_the_clear_is_sealed_or_goes(lives: Lives, is_destroyed: bool) -> None:
    in_the_clear = await started(lives.folder / "log")
    entries = await in_the_clear.append(CALL, said(5), WORDS.encode())
    await in_the_clear.stop()
    (path,) = (lives.folder / "log").glob("*/*.log")
    as_one_by_one(path)
    assert WORDS.encode() in lives.on_disk()
    if is_destroyed:
        await lives.service.destroy(CALL.tenant_id)
    log = await lives.start()
    await asyncio.sleep(1)
    assert WORDS.encode() not in lives.on_disk()
    if is_destroyed:
        assert [key async for key in log.channels()] == []
    else:
        assert content((await log.recover(CALL, entries[1].position)).tail) == content(entries[2:])
        await log.append(CALL, said(1, start=5))
    await log.stop()
    assert WORDS.encode() not in lives.on_disk()


def as_one_by_one(path: Path) -> None:
    """A file as a version wrote it that knew no batches."""
    files = ChannelFiles(path.parents[1])
    files.open()
    outline = files.read(CALL)
    assert outline is not None
    runs = [msgspec.msgpack.decode(item.value, type=list[msgspec.Raw]) for item in outline.items]  # type: ignore[union-attr]
    payloads = [bytes(item) for run in runs for item in run]
    complete = msgspec.msgpack.encode(["s", files.generation, outline.last])
    opened = msgspec.msgpack.encode(["o", outline.epoch, outline.floor])
    path.write_bytes(b"".join(map(frame, [opened, *payloads, complete])))
    assert msgspec.msgpack.decode(payloads[-1], type=Stored).offset == outline.last
    assert msgspec.msgpack.decode(opened, type=Opened).is_sealed is False
    files.mark_clean()
    files.close()


class AwayHarness(EmbeddedHarness):
    """Its key service may be away when a life begins."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.service = Service(folder / "keys")

    async def start(self) -> EmbeddedLog:
        keys = Keyring(self.service)
        await keys.prepare(CALL.tenant_id)
        self.log = EmbeddedLog(self.folder / str(self.life), limits=self.limits, keys=keys)
        await self.log.start()
        return self.log


class ClientsWithoutAKeyService(EmbeddedClients):
    """Lives begin while the key service is away: nobody can connect, and afterwards everybody has all that was said."""

    def make_harness(self) -> LogHarness:
        self.folder = tempfile.TemporaryDirectory()
        harness = AwayHarness(Path(self.folder.name))
        self.service = harness.service
        return harness

    @rule()
    def restart_while_it_is_away(self) -> None:
        self.service.is_away = True
        super().restart()

    @rule(number=st.integers(0, 2))
    def connect(self, number: int) -> None:
        try:
            super().connect(number)
        except Unavailable:
            assert self.service.is_away

    @rule()
    def crash(self) -> None:
        self.service.is_away = False
        super().crash()

    @rule()
    def it_is_back(self) -> None:
        self.service.is_away = False
        recovery = self.runner.run(self.log.recover(CALL, None))
        assert folded(recovery.snapshot) == folded(self.published)


TestClientsWithoutAKeyService = pytest.mark.slow(ClientsWithoutAKeyService.TestCase)
TestClientsWithoutAKeyService.settings = settings(max_examples=examples(30), stateful_step_count=30, deadline=None)
