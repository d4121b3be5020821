"""The durable outbox: what was published will be in the store, whatever dies in between.

    put ──▶ group commit ──▶ journal (fsync) ──▶ `put` is done
                                │
                                └──▶ drain ──▶ store.apply, in order, again until it works ──▶ journal forgets

The feed never waits for the store, and the store may be away for as long as the disk has room. A crash between applying
and forgetting applies twice, which changes nothing. A record that the store refuses for good is isolated, kept in
`refused.bin` and told of; it never holds up those behind it. Used from the event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from server.keys.keyring import SEALED, Keyring
from server.store.contract import ErasureRecord, Record, Store, owner_of
from server.store.durable import replace_file
from server.store.folder_lock import FolderLock
from server.store.framing import frame, scan
from server.store.group_commit import GroupCommit
from server.store.segments import Place, Segments
from server.wire.errors import ConfigError, CuelineError, Gone, Unavailable
from server.wire.ids import TenantId
from server.wire.publication import Notice

logger = logging.getLogger(__name__)

RETRY_BASE_S = 0.1
REFUSED = "refused.bin"
_CONTEXT = b"outbox"

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxLimits:
    """Bounds and paces.

    Attributes:
        linger_s: How long a record waits for company on its way to the disk; a commit costs a tenth of a millisecond of
            each of two threads, whatever is in it.
        drain_linger_s: How long it then waits for company on its way to the store.
        max_unwritten_bytes: Records waiting for the disk.
        max_disk_bytes: Journal; at this size new records are refused until the store has taken some.
        max_refused_bytes: Records that the store will not take; beyond that they are only told of.
        max_segment_bytes: One journal file.
        max_batch_records: Most records of one transaction; 200 keep the event loop for some 3 ms.
        retry_cap_s: Longest back-off while the store is away or the disk fails.
        apply_s: How long one transaction may take before the store counts as away.
        stop_s: How long `stop` goes on draining.
    """

    linger_s: float = 0.02
    drain_linger_s: float = 0.25
    max_unwritten_bytes: int = 16 * 1024 * 1024
    max_disk_bytes: int = 1024**3
    max_refused_bytes: int = 64 * 1024 * 1024
    max_segment_bytes: int = 1024 * 1024
    max_batch_records: int = 200
    retry_cap_s: float = 5.0
    apply_s: float = 30.0
    stop_s: float = 10.0


@dataclass(slots=True)
class OutboxCounters:
    """Totals since the start, for the metrics to read."""

    put: int = 0
    not_taken: int = 0
    commits: int = 0
    drained: int = 0
    batches: int = 0
    store_failures: int = 0
    refused: int = 0
    erased: int = 0
    damaged_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Item:
    payload: bytes
    record: Record


class Outbox:
    """Takes records, makes them durable, brings them to the store.

    Args:
        folder: Where its journal lives; made if missing. One process a folder.
        store: Where records go; started.
        limits: Bounds.
        keys: Seal records on the disk; None: they lie there as they are.
        on_notice: Told when the journal or the store goes away and comes back, and of refused records.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        *,
        limits: OutboxLimits | None = None,
        keys: Keyring | None = None,
        on_notice: Callable[[Notice], None] = lambda _: None,
    ) -> None:
        self.counters = OutboxCounters()
        self._folder = folder
        self._store = store
        self._limits = limits or OutboxLimits()
        self._keys = keys
        self._is_sealed_off = False
        self._on_notice = on_notice
        self._lock = FolderLock()
        self._segments = Segments(
            folder,
            max_segment_bytes=self._limits.max_segment_bytes,
            max_page_payloads=self._limits.max_batch_records,
        )
        self._writer: GroupCommit[bytes] = GroupCommit(
            self._segments.write,
            name="cueline-outbox",
            linger_s=self._limits.linger_s,
            max_unwritten_bytes=self._limits.max_unwritten_bytes,
            on_committed=self._committed,
            on_trouble=self._journal_troubled,
            retry_cap_s=self._limits.retry_cap_s,
        )
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
        self._num_left = 0
        self._end: Place = (0, 0)
        self._drained_to: Place = (0, 0)
        self._waiters: list[tuple[Place, asyncio.Future[None]]] = []
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stopping = asyncio.Event()
        self._settled = asyncio.Event()
        self._is_closed = False
        self._is_full = False
        self._is_away = False
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting_records(self) -> int:
        """Records that the store does not have yet."""
        return max(0, self._num_left + self.counters.put - self.counters.drained - self.counters.refused)

    @property
    def is_store_away(self) -> bool:
        """The last attempt to reach the store failed."""
        return self._is_away

    async def start(self) -> None:
        """Open, and drain what an earlier run left; if the store is away, that goes on in the background.

        Raises:
            ConfigError: The folder cannot be used, or another process uses it.
        """
        try:
            self._num_left = await self._writer.run_in_thread(self._open)
        except (ConfigError, OSError) as error:
            await self._writer.stop()
            self._lock.release()
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"the outbox cannot be opened: {error.strerror}", field=str(self._folder)) from error
        self._writer.start()
        self._end, self._drained_to = self._segments.end, self._segments.read
        self._task = asyncio.create_task(self._drain(), name="cueline-outbox-drain")
        self._task.add_done_callback(self._drain_ended)
        self._hurry.set()
        self._work.set()
        await self._settled.wait()

    def put(self, record: Record) -> asyncio.Future[None]:
        """Take a record now; the result is done once it is on the disk.

        The result fails with `Unavailable` when there is no room, or when the disk cannot be written at present (then
        the record stays queued and is written when it can be). Nobody has to await it.
        """
        return self._writer.committed() if self._take(record) else _failed(_unavailable())

    def put_nowait(self, record: Record) -> None:
        """Take a record that nobody waits for.

        Raises:
            Unavailable: There is no room for it.
        """
        if not self._take(record):
            raise _unavailable()

    async def drained(self) -> None:
        """Wait until the store has everything put so far. A reader of the store that must not be behind awaits this.

        Raises:
            Unavailable: The journal cannot be written at present, or nothing drains it any more.
        """
        await self._writer.committed()
        if self._task is None or self._task.done():
            raise _unavailable()
        if self._drained_to < self._end:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((self._end, waiter))
            self._hurry.set()
            await waiter

    async def forget_refused(self, tenant_id: str, conversation_id: str) -> int:
        """Remove what was set aside of a conversation, and what is of no tenant any more; how many records."""
        path = self._folder / REFUSED
        payloads = await self._writer.run_in_thread(lambda: scan(path.read_bytes()).payloads if path.exists() else [])
        kept = []
        for payload in payloads:
            try:
                record = self._decoder.decode(await self._opened(payload))
            except Gone:
                continue
            except (msgspec.DecodeError, ValueError):
                kept.append(payload)  # not ours to judge
                continue
            if owner_of(record) != (tenant_id, conversation_id):
                kept.append(payload)
        if len(kept) < len(payloads):
            await self._writer.run_in_thread(partial(_rewrite, path, kept, len(payloads)))
        return len(payloads) - len(kept)

    async def rotate(self) -> None:
        """Have the journal's present file go as soon as the store has what is in it."""
        await self._writer.committed()
        await self._writer.run_in_thread(self._segments.rotate)

    async def stop(self) -> None:
        """Make everything durable, drain what the store takes within `stop_s`, and end."""
        if self._task is None:
            return
        self._is_closed = True
        with contextlib.suppress(Unavailable):
            await self._writer.committed()
        self._stopping.set()
        self._hurry.set()
        self._work.set()
        done, _ = await asyncio.wait([self._task], timeout=self._limits.stop_s)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])
        with contextlib.suppress(OSError):
            await self._writer.run_in_thread(self._segments.close)
        if not await self._writer.stop():
            logger.error("records were not written", extra={"records": self.waiting_records})
        self._lock.release()

    # -- in ---------------------------------------------------------------------------------------------------------

    def _open(self) -> int:
        self._lock.acquire(self._folder)
        return self._segments.open()

    def _take(self, record: Record) -> bool:
        payload = self._encoder.encode(record)
        if self._keys is not None:
            try:
                payload = self._keys.seal(TenantId(owner_of(record)[0]), payload, _CONTEXT)
            except CuelineError as error:
                if not isinstance(record, ErasureRecord):  # it has ids alone, and is due without the key all the more
                    return self._not_sealed(error)
        used_bytes = self._segments.total_bytes + self._writer.unwritten_bytes
        has_room = used_bytes + len(payload) <= self._limits.max_disk_bytes and not self._is_closed
        if has_room and self._writer.offer(payload, len(payload)):
            self.counters.put += 1
            self._is_full = False
            return True
        self.counters.not_taken += 1
        if not self._is_full and not self._is_closed:
            self._is_full = True
            logger.error("the outbox is full", extra={"used_bytes": used_bytes})
            self._notify("outbox_full", "Transcripts and guidance of now will be missing from the records.", "error")
        return False

    def _not_sealed(self, error: CuelineError) -> bool:
        """A record that cannot be sealed is not kept: its words would lie on the disk for everyone."""
        self.counters.not_taken += 1
        if not self._is_sealed_off:
            self._is_sealed_off = True
            logger.error("records cannot be sealed", extra={"reason": error.message})
            self._notify("outbox_without_key", "Transcripts of a tenant without its key are not kept.", "error")
        return False

    def _committed(self, _: Sequence[bytes]) -> None:
        self.counters.commits += 1
        self._end = self._segments.end
        self._work.set()

    def _journal_troubled(self, error: Exception | None) -> None:
        if error is None:
            self._notify("outbox_durable", "Records are durable again.", "info")
        else:
            self._notify("outbox_not_durable", "Records cannot be written to the disk at present.", "error")

    # -- out --------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        while True:
            await self._work.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._limits.drain_linger_s)
            self._work.clear()
            target = self._end  # what comes while this is drained waits for company again
            while self._drained_to < target and await self._drain_page():
                pass
            self._settled.set()
            if not self._waiters:
                self._hurry.clear()
            if self._stopping.is_set():
                return

    async def _drain_page(self) -> bool:
        """Bring one page to the store; False if there is none, or the stop came before the store took it."""
        try:
            page = await self._writer.run_in_thread(self._segments.next_page)
            if page is not None:
                if page.damaged_bytes:
                    self.counters.damaged_bytes += page.damaged_bytes
                    logger.error("the outbox journal is damaged", extra={"damaged_bytes": page.damaged_bytes})
                try:
                    items = await self._decoded(page.payloads)
                except Unavailable:
                    return await self._pause(self._limits.retry_cap_s)
                if not await self._apply(items):
                    return False
                await self._writer.run_in_thread(partial(self._segments.forget, page))
        except OSError as error:
            logger.error("the outbox journal cannot be read", extra={"error": str(error)})
            return await self._pause(self._limits.retry_cap_s)
        self._reached(self._segments.read)
        return page is not None

    async def _apply(self, items: list[_Item]) -> bool:
        """Until the store has them, halving what it refuses; False if the stop came before."""
        delay_s = RETRY_BASE_S
        while items:
            try:
                async with asyncio.timeout(self._limits.apply_s):
                    await self._store.apply([item.record for item in items])
            except (Unavailable, TimeoutError):
                self._store_is(away=True)
                if not await self._pause(random.uniform(0, delay_s)):
                    return False
                delay_s = min(self._limits.retry_cap_s, 2 * delay_s)
            except Exception as error:
                self._store_is(away=False)
                if len(items) == 1:
                    await self._refuse(items[0].payload, error)
                    return True
                middle = len(items) // 2
                return await self._apply(items[:middle]) and await self._apply(items[middle:])
            else:
                self._store_is(away=False)
                self.counters.batches += 1
                self.counters.drained += len(items)
                return True
        return True

    async def _decoded(self, payloads: Sequence[bytes]) -> list[_Item]:
        """Records of a page.

        Raises:
            Unavailable: A key is not at hand now.
        """
        items = []
        for payload in payloads:
            try:
                items.append(_Item(payload, self._decoder.decode(await self._opened(payload))))
            except Gone:
                self.counters.erased += 1  # with its tenant's key
            except (msgspec.DecodeError, ValueError) as error:  # whole, so it was written like that: by a newer version
                await self._refuse(payload, error)
        return items

    async def _opened(self, payload: bytes) -> bytes:
        if payload[:1] != bytes([SEALED]):
            return payload  # from before there were keys
        if self._keys is None:
            raise ValueError("sealed, and there are no keys")
        return await self._keys.open(payload, _CONTEXT)

    async def _refuse(self, payload: bytes, error: Exception) -> None:
        """Keep a record that the store will never take, and say so; its words stay out of the log."""
        self.counters.refused += 1
        logger.error("a record was refused", extra={"error": type(error).__name__})
        self._notify("record_refused", "A record could not be stored and was set aside.", "error")
        await self._writer.run_in_thread(partial(self._set_aside, payload))

    def _set_aside(self, payload: bytes) -> None:
        with (self._folder / REFUSED).open("ab") as file:
            if file.tell() + len(payload) <= self._limits.max_refused_bytes:
                file.write(frame(payload))
                file.flush()
                os.fsync(file.fileno())

    async def _pause(self, delay_s: float) -> bool:
        """Wait before the next attempt; False if it is time to stop."""
        self._settled.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay_s)
        return not self._stopping.is_set()

    def _store_is(self, *, away: bool) -> None:
        self.counters.store_failures += away
        if away and not self._is_away:
            logger.warning("the store is away", extra={"waiting_records": self.waiting_records})
            self._notify("store_away", "Records wait on the disk until the store is back.", "warning")
        elif self._is_away and not away:
            logger.warning("the store is back", extra={"waiting_records": self.waiting_records})
            self._notify("store_back", "The store takes records again.", "info")
        self._is_away = away

    def _reached(self, place: Place) -> None:
        self._drained_to = place
        for target, waiter in self._waiters:
            if target <= place and not waiter.done():
                waiter.set_result(None)
        self._waiters = [(target, waiter) for target, waiter in self._waiters if not waiter.done()]

    def _drain_ended(self, task: asyncio.Task[None]) -> None:
        self._settled.set()
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(_unavailable())
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical("the outbox drain died", extra={"error": type(error).__name__}, exc_info=error)
            self._notify("outbox_stuck", "Records are kept on the disk but no longer reach the store.", "error")

    def _notify(self, code: str, message: str, severity: Severity) -> None:
        self._on_notice(Notice(code=code, message=message, severity=severity))


def _rewrite(path: Path, payloads: Sequence[bytes], num_known: int) -> None:
    """Put these in the place of the first `num_known`; what was set aside meanwhile stays. In the writer's thread."""
    later = scan(path.read_bytes()).payloads[num_known:]
    replace_file(path, b"".join(map(frame, [*payloads, *later])))


def _unavailable() -> Unavailable:
    return Unavailable("records cannot be taken at present")


def _failed(error: Exception) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()  # seen: nobody has to await it
    return future
