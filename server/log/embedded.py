"""The embedded event log: memory answers, followers are called at once, a thread keeps the disk up to date.

    append ──▶ channel (number, stamp, encode once) ──▶ followers          before `append` returns
                  └──▶ group commit ──▶ one file a channel, sealed          within `linger_s`, never waited for

Files are sealed by the tenant's key. A key service that is away holds up no call: what is appended waits in memory for
a key, or goes on behind a file that cannot be opened yet, and only who wants to read that file is told so.
After a clean stop epochs go on; after any other end each channel continues what survived in a new epoch, so that every
client is told. When the disk fails the log serves from memory, says so, and writes what it still holds once the disk is
back. Bounded: a channel's tail, the writer's queue, idle channels, age and size on disk. Used from the event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from server.keys.keyring import DataCipher, Keyring
from server.log.channel import Channel, new_epoch
from server.log.contract import ChannelKey, Entry, Event, Position, Recovery, Sink, ignore
from server.log.file_reader import FileReader
from server.log.files import Append, ChannelFiles, Job, Remove, Replace
from server.log.frames import Complete, Contents, Opened, Remembered, in_epoch
from server.store.group_commit import GroupCommit
from server.wire.clock import wall_ms
from server.wire.errors import ConfigError, Conflict, CuelineError, Gone, Unavailable
from server.wire.ids import TenantId
from server.wire.publication import Notice

logger = logging.getLogger(__name__)

_FRAME_OVERHEAD_BYTES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLimits:
    """What the log may hold, and for how long.

    Attributes:
        linger_s: How long an entry waits for company on its way to the disk.
        max_tail_bytes: Recent entries of one channel in memory; older ones are read from the disk.
        max_recovery_entries: Longest tail a reader is given; one further behind gets the snapshot.
        max_unwritten_bytes: Entries waiting for the disk; beyond that they are held in memory only and written later.
        idle_s: A channel that nobody follows, writes or reads leaves memory after this time.
        retention_s: A channel that was not written to for so long is forgotten.
        max_disk_bytes: All files together; beyond that the longest unused are forgotten.
        sweep_s: How often the last three are looked after.
        retry_cap_s: Longest back-off while the disk fails.
    """

    linger_s: float = 0.05
    max_tail_bytes: int = 256 * 1024
    max_recovery_entries: int = 20_000
    max_unwritten_bytes: int = 64 * 1024 * 1024
    idle_s: float = 600.0
    retention_s: float = 7 * 24 * 3600.0
    max_disk_bytes: int = 4 * 1024**3
    sweep_s: float = 60.0
    retry_cap_s: float = 5.0


@dataclass(slots=True)
class LogCounters:
    """Totals since the start, for the metrics to read."""

    appended: int = 0
    appended_bytes: int = 0
    tails: int = 0
    snapshots: int = 0
    restored: int = 0
    evicted: int = 0
    forgotten: int = 0
    write_failures: int = 0


class EmbeddedLog:
    """`EventLog` in this process.

    Args:
        folder: Where it lives; made if missing. One process a folder.
        limits: Bounds.
        keys: Seal what is said; None: it lies in the files as it is.
        on_notice: Told when the log stops and starts being durable.
        now_s: Monotonic clock.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limits: LogLimits | None = None,
        keys: Keyring | None = None,
        on_notice: Callable[[Notice], None] = lambda _: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = LogCounters()
        self._folder = folder
        self._limits = limits or LogLimits()
        self._keys = keys
        self._on_notice = on_notice
        self._now_s = now_s
        self._files = ChannelFiles(folder)
        self._writer: GroupCommit[Job] = GroupCommit(
            self._files.write,
            name="cueline-log",
            linger_s=self._limits.linger_s,
            max_unwritten_bytes=self._limits.max_unwritten_bytes,
            on_committed=self._committed,
            on_trouble=self._troubled,
            retry_cap_s=self._limits.retry_cap_s,
        )
        self._reader = FileReader(self._files, self._writer, keys)
        self._channels: dict[ChannelKey, Channel] = {}
        self._stored: set[ChannelKey] = set()
        self._behind: set[ChannelKey] = set()
        self._followers: dict[ChannelKey, list[Sink]] = {}
        self._keyless: set[TenantId] = set()
        self._loading = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open and recover.

        Raises:
            ConfigError: The folder cannot be used, or another process uses it.
        """
        try:
            self._stored.update(await self._writer.run_in_thread(self._files.open))
        except (ConfigError, OSError) as error:
            await self._close()
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"the log cannot be opened: {error.strerror}", field=str(self._folder)) from error
        self._writer.start()
        self._sweeper = asyncio.create_task(self._sweep(), name="cueline-log-sweeper")
        self._sweeper.add_done_callback(_loud)

    async def append(self, key: ChannelKey, events: Sequence[Event], memory: bytes = b"") -> tuple[Entry, ...]:
        """Append in order; followers see the entries before this returns. Waits for no disk to write, and no key."""
        if self._is_gone(key):
            return ()  # nobody could read it
        channel = self._channels.get(key)
        if channel is None:
            channel = await self._channel(key, or_detached=True)
        now_s, t8 = self._now_s(), wall_ms()
        entries = channel.append(events, now_s, t8)
        if memory:
            channel.memory, channel.is_remembered = memory, False
        self._persist(channel)
        channel.fold(self._limits.max_tail_bytes)
        self.counters.appended += len(entries)
        if entries:
            for sink in tuple(self._followers.get(key, ())):
                _tell(sink, entries)
        return entries

    async def recover(self, key: ChannelKey, after: Position | None) -> Recovery:
        """Complete tail after a known position, else snapshot.

        The answer is true at the moment this returns: a `follow` in the same turn of the loop misses nothing.

        Raises:
            Gone: The tenant's key was destroyed.
            Unavailable: Its file, or the key to it, is not at hand now.
        """
        channel = await self._open(key)
        if after is not None and channel.last - after.offset <= self._limits.max_recovery_entries:
            with contextlib.suppress(Unavailable):  # then what memory has, if that is whole
                tail = await self._entries_after(key, after)
                if tail is not None:
                    self.counters.tails += 1
                    position = tail[-1].position if tail else after
                    return Recovery(position=position, recovered=True, snapshot=(), tail=tail)
        channel = await self._unlocked(key)
        self.counters.snapshots += 1
        return Recovery(position=channel.position, recovered=False, snapshot=channel.snapshot(), tail=())

    async def memory(self, key: ChannelKey) -> bytes:
        """See `EventLog`."""
        return (await self._open(key)).memory or (await self._unlocked(key)).memory

    async def read(self, key: ChannelKey, after: Position | None, limit: int) -> tuple[Entry, ...]:
        """Up to `limit` entries after a position (None: from the oldest held on), in order and without holes.

        Raises:
            Conflict: The position is of another epoch, or what followed it is no longer held.
            Gone: The tenant's key was destroyed.
            Unavailable: Its file, or the key to it, is not at hand now.
        """
        if after is None:
            channel = await self._open(key)
            after = Position(channel.epoch, channel.floor)
        entries = await self._entries_after(key, after)
        if entries is None:
            raise Conflict("the position is no longer held", field="after")
        return entries[:limit]

    def follow(self, key: ChannelKey, sink: Sink, lost: Callable[[], None] = ignore) -> Callable[[], None]:
        """Call `sink` for every entry appended from now on; returns the function that ends it (idempotent).

        `lost` is never called: whoever follows in this process is told every entry.
        """
        followers = self._followers.setdefault(key, [])
        followers.append(sink)

        def end() -> None:
            with contextlib.suppress(ValueError):
                followers.remove(sink)
            if not followers and self._followers.get(key) is followers:
                del self._followers[key]

        return end

    async def trim(self, key: ChannelKey) -> int:
        """Forget a channel whose call ended and whose retention passed. One that is used again is a new one.

        Raises:
            Unavailable: The disk fails at present; the file goes when it works again, unless the process ends before.
        """
        num_entries = (await self._channel(key, or_detached=True)).last
        await self._forget(key)
        await self._writer.committed()
        return num_entries

    async def channels(self) -> AsyncIterator[ChannelKey]:
        """All channels held, live and ended."""
        for key in self._stored | self._channels.keys():
            yield key

    async def stop(self) -> None:
        """Flush and mark a clean end. Where that fails, the next start begins new epochs."""
        if self._sweeper is None:
            return
        self._sweeper.cancel()
        await asyncio.wait([self._sweeper])
        self._drop_gone()
        try:
            await self._write_all()
            if all(channel.is_complete or channel.last == 0 for channel in self._channels.values()):
                await self._writer.run_in_thread(self._files.mark_clean)
        except (Unavailable, OSError):
            logger.error("the log could not be written to its end; the next start begins new epochs")
        await self._close()

    async def _write_all(self) -> None:
        """Write every channel to its end, whatever of it the writer had no room for. Raises as `committed`."""
        for channel in tuple(self._channels.values()):
            self._complete(channel)
            while not channel.is_complete and self._writer.unwritten_bytes:
                await self._writer.committed()
                self._complete(channel)
        await self._writer.committed()

    async def _close(self) -> None:
        await self._writer.stop()
        self._files.close()

    async def _open(self, key: ChannelKey) -> Channel:
        """The channel, for a reader. Raises as `read`."""
        if self._is_gone(key):
            raise Gone("the key of this tenant was destroyed")
        return await self._channel(key)

    async def _channel(self, key: ChannelKey, *, or_detached: bool = False) -> Channel:
        """The channel, from memory, from the disk, or new; one whose key is not in memory is locked.

        Args:
            key: Which.
            or_detached: If its file cannot be read, continue in memory only, in a new epoch, instead of raising.

        Raises:
            Unavailable: Its file cannot be read at present.
        """
        channel = self._channels.get(key)
        if channel is None and key not in self._stored:
            channel = self._channels[key] = Channel(key, new_epoch())
        elif channel is None:
            async with self._loading:
                channel = self._channels.get(key) or await self._restored(key, or_detached=or_detached)
        channel.touched_s = self._now_s()
        return channel

    async def _restored(self, key: ChannelKey, *, or_detached: bool) -> Channel:
        try:
            outline = await self._reader.outline(key)
            channel = Channel(key, new_epoch()) if outline is None else Channel.of_file(key, outline)
            if outline is not None and (contents := await self._reader.opened_now(key, outline)) is not None:
                # In the thread, too: a long call's is some 20 ms, and nobody else has this channel yet.
                unlock = partial(channel.unlock, contents, self._limits.max_tail_bytes)
                await self._writer.run_in_thread(unlock)
            self.counters.restored += 1
        except Unavailable:
            if not or_detached:
                raise
            channel = Channel(key, new_epoch(), is_stored=False)
        self._channels[key] = channel
        return channel

    async def _unlocked(self, key: ChannelKey) -> Channel:
        """The channel, with all that its file holds. Raises as `read`."""
        while (channel := await self._open(key)).is_locked:
            contents = await self._reader.read(key) or Contents(channel.tail_start, (), 0)
            if channel.is_locked and self._channels.get(key) is channel:
                channel.unlock(contents, self._limits.max_tail_bytes)
        return channel

    def _is_gone(self, key: ChannelKey) -> bool:
        return self._keys is not None and self._keys.is_destroyed(key.tenant_id)

    def _drop_gone(self) -> None:
        """With a tenant's key its words go from memory, too."""
        for key in [key for key in self._channels if self._is_gone(key)]:
            del self._channels[key]
            self._behind.discard(key)

    async def _entries_after(self, key: ChannelKey, after: Position) -> tuple[Entry, ...] | None:
        """Everything after a position, None if that is no longer held. Raises as `read`."""
        while True:
            channel = await self._open(key)
            if after.epoch != channel.epoch or not channel.floor <= after.offset <= channel.last:
                return None
            tail = channel.after(after.offset)
            if tail is not None:
                return tail
            num_there = channel.tail_start - after.offset
            contents = await self._reader.read(key)
            channel = await self._open(key)
            if contents is None or after.epoch != channel.epoch or channel.floor > after.offset:
                return None
            older = contents.between(after.offset, channel.tail_start)
            if len(older) == channel.tail_start - after.offset:
                # In a life that begins with a new epoch the file may not say so yet.
                return (*[in_epoch(entry, channel.epoch) for entry in older], *channel.tail)
            if len(older) < num_there:
                return None  # it was damaged since it was written
            # The tail was folded on while the file was read: the part between is on the disk by now.

    def _persist(self, channel: Channel) -> None:
        """Hand the writer what it does not have yet; if it has no room, or there is no key, try again when there is."""
        if not channel.is_stored or channel.queued == channel.last:
            return
        try:
            cipher = self._cipher(channel.key)
        except Unavailable as error:
            if channel.key.tenant_id not in self._keyless:
                self._keyless.add(channel.key.tenant_id)
                logger.error("what is said waits in memory for its tenant's key", extra={"reason": error.message})
            self._behind.add(channel.key)
            return
        except Gone:
            return  # `_drop_gone` forgets it
        self._keyless.discard(channel.key.tenant_id)
        job: Job
        missing = channel.after(channel.queued)
        remembered = (Remembered(channel.memory),) if channel.memory and not (missing and channel.is_remembered) else ()
        if missing is None:  # it was refused for so long that its entries are only states by now
            opened = Opened(channel.epoch, channel.tail_start, cipher is not None)
            items = (opened, *remembered, *channel.states.entries(), *channel.tail)
            # Of one that is locked the file alone knows the older states.
            job = (Append if channel.is_locked else Replace)(channel.key, channel.position, items, cipher)
        elif channel.is_opened:
            job = Append(channel.key, channel.position, (*remembered, *missing), cipher)
        else:
            opened = Opened(channel.epoch, channel.floor, cipher is not None)
            job = Append(channel.key, channel.position, (opened, *remembered, *missing), cipher)
        size_bytes = sum([len(item.body) + _FRAME_OVERHEAD_BYTES for item in job.items if isinstance(item, Entry)])
        size_bytes += len(channel.memory) if remembered else 0
        if self._writer.offer(job, size_bytes):
            if missing is None:
                channel.floor = channel.tail_start
            channel.queued = channel.last
            channel.is_opened = channel.is_remembered = True
            self._stored.add(channel.key)
            self._behind.discard(channel.key)
            self.counters.appended_bytes += size_bytes
        else:
            self._behind.add(channel.key)

    def _cipher(self, key: ChannelKey) -> DataCipher | None:
        return None if self._keys is None else self._keys.cipher(key.tenant_id)

    def _complete(self, channel: Channel) -> None:
        """Say in its file that nothing is missing; only true of a channel whose entries were all handed over."""
        self._persist(channel)
        if channel.is_stored and channel.queued == channel.last > 0 and not channel.is_complete:
            complete = Complete(self._files.generation, channel.last)
            opened = () if channel.is_opened else (Opened(channel.epoch, channel.floor, self._keys is not None),)
            if self._writer.offer(Append(channel.key, channel.position, (*opened, complete)), _FRAME_OVERHEAD_BYTES):
                channel.is_opened = channel.is_complete = True

    def _committed(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            channel = self._channels.get(job.key)
            if channel is None or isinstance(job, Remove):
                continue
            if job.upto.epoch == channel.epoch:
                channel.written = max(channel.written, job.upto.offset)
                if isinstance(job.items[-1], Complete):
                    channel.completed = job.upto.offset
                    if self._is_idle(channel):
                        self._evict(channel)
        self._catch_up()

    def _catch_up(self) -> None:
        for key in tuple(self._behind):
            if self._writer.unwritten_bytes * 2 < self._limits.max_unwritten_bytes:
                self._persist(self._channels[key])

    def _troubled(self, error: Exception | None) -> None:
        if error is None:
            self._on_notice(Notice(code="log_durable", message="The event log is durable again.", severity="info"))
            return
        self.counters.write_failures += 1
        self._on_notice(
            Notice(
                code="log_not_durable",
                message="The event log cannot be written; guidance goes on from memory.",
                severity="error",
            )
        )

    async def _forget(self, key: ChannelKey) -> None:
        async with self._loading:  # not while its file is being read
            if key in self._stored and not self._writer.offer(Remove(key), 0):
                raise Unavailable("the log is being stopped")
            self._stored.discard(key)
            self._channels.pop(key, None)
            self._behind.discard(key)

    def _is_idle(self, channel: Channel) -> bool:
        idle_s = self._now_s() - channel.touched_s
        return idle_s >= self._limits.idle_s and channel.key not in self._followers

    async def _sweep(self) -> None:
        await self._reseal()
        while True:
            await asyncio.sleep(self._limits.sweep_s)
            self._drop_gone()
            self._catch_up()
            for channel in [channel for channel in self._channels.values() if self._is_idle(channel)]:
                self._evict(channel)
            try:
                await self._writer.run_in_thread(self._files.close_lost)
                expired = await self._writer.run_in_thread(
                    partial(self._files.expired, self._limits.retention_s, self._limits.max_disk_bytes)
                )
            except OSError as error:
                logger.error("the log's files cannot be listed", extra={"error": str(error)})
                continue
            for key in expired:
                if key not in self._channels:
                    await self._forget(key)
                    self.counters.forgotten += 1

    async def _reseal(self) -> None:
        """Seal what an earlier version left in the clear; of a tenant whose key was destroyed it goes."""
        if self._keys is None:
            return
        try:
            found = await self._writer.run_in_thread(self._files.in_the_clear)
        except OSError as error:
            logger.error("the log's files cannot be listed", extra={"error": str(error)})
            return
        for key in found:
            try:
                await self._keys.prepare(key.tenant_id)
                cipher = self._keys.cipher(key.tenant_id)
                await self._writer.run_in_thread(partial(self._files.reseal, key, cipher))
            except Gone:
                await self._forget(key)
            except (OSError, CuelineError) as error:
                logger.error("a channel stays in the clear until the next start", extra={"error": str(error)})

    def _evict(self, channel: Channel) -> None:
        """Drop from memory what the disk holds; `Complete` has to be there first, then `_committed` drops it."""
        if channel.last == channel.completed:
            del self._channels[channel.key]
            self.counters.evicted += 1
        else:
            self._complete(channel)


def _tell(sink: Sink, entries: Sequence[Entry]) -> None:
    try:
        sink(entries)
    except Exception:
        # One broken reader must not cost the others, nor the writer, these entries.
        logger.exception("a follower failed", extra={"kind": entries[0].kind})


def _loud(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("the log's sweeper died", exc_info=error)
