"""The embedded log on disk: one append-only file a channel, and a word on whether the last run ended well.

    <folder>/lock                       held by the one process that uses the folder
    <folder>/generation                 name of the generation after a clean stop, else empty
    <folder>/<tenant>/<channel>.log     frames: Opened (Remembered? Stored*)* Sealed? …

A client's position may only be honoured if nothing that it was shown can be missing here. That is certain for a channel
whose file ends with a `Sealed` of the present generation that names its last offset; a generation lives on over clean
stops and a new one begins after any other end. All functions block and run in the log's own thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

from server.log.contract import ChannelKey, Entry, Position
from server.store.durable import replace_file
from server.store.folder_lock import FolderLock
from server.store.framing import frame, scan
from server.wire.ids import TenantId
from server.wire.publication import Kind

_SUFFIX = ".log"


class Opened(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """Entries from here on belong to `epoch`; entries up to `floor` may be incomplete. The last one counts for all."""

    epoch: str
    floor: int


class Stored(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """One entry. `appended_ms` is wall time; the monotonic clock of another run means nothing."""

    offset: int
    epoch: str
    kind: Kind
    key: str
    is_interim: bool
    is_over: bool
    appended_ms: float
    body: bytes


class Remembered(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """What the writer has to know to go on after the entries that follow; the last one counts.

    It stands before them: where a torn end takes entries, a card is missing rather than shown twice under one id.
    """

    memory: bytes


class Sealed(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """Everything up to `offset` is here and no more had been shown to anybody."""

    generation: str
    offset: int


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Opened | Stored | Remembered | Sealed] = msgspec.msgpack.Decoder(
    Opened | Stored | Remembered | Sealed
)

Item = Entry | Opened | Remembered | Sealed
"""What is written into a channel's file."""


@dataclass(frozen=True, slots=True)
class Append:
    """Write marks and entries at the end of a channel's file; it then has everything up to `upto`."""

    key: ChannelKey
    upto: Position
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Replace:
    """Write a channel's file anew, atomically; it then has everything up to `upto`."""

    key: ChannelKey
    upto: Position
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a channel's file."""

    key: ChannelKey


Job = Append | Replace | Remove


@dataclass(frozen=True, slots=True)
class Contents:
    """What a channel's file holds.

    Attributes:
        epoch: Its epoch.
        floor: Offset after which the entries are complete.
        entries: Ascending offsets, their bodies carrying `epoch`.
        is_certain: Whether a position of this epoch can be honoured.
        skipped_bytes: Damage that was stepped over.
        memory: What the last writer left to the next one.
    """

    epoch: str
    floor: int
    entries: tuple[Entry, ...]
    is_certain: bool
    skipped_bytes: int
    memory: bytes = b""

    def between(self, after: int, upto: int) -> tuple[Entry, ...]:
        """Entries with offsets above `after` and at most `upto`."""
        start = bisect_right(self.entries, after, key=_offset)
        return self.entries[start : bisect_right(self.entries, upto, key=_offset)]


class ChannelFiles:
    """All files of one log. Not thread-safe: the log's one thread calls it.

    Args:
        folder: Where they are; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rollback: dict[Path, int] = {}
        self._lock = FolderLock()
        self.generation = ""

    def open(self) -> tuple[ChannelKey, ...]:
        """Begin a run: take over the generation of a clean stop or begin one; list the channels.

        Raises:
            ConfigError: The folder cannot be used, or another process uses it.
            OSError: Its files cannot be read or written.
        """
        self._lock.acquire(self._folder)
        path = self._folder / "generation"
        name = ""
        if path.exists():
            frames = scan(path.read_bytes()).payloads
            name = frames[-1].decode() if frames else ""
        self.generation = name or secrets.token_hex(8)
        # Until `close` says otherwise this run ends badly: an empty name is no generation that was ever sealed.
        self._write_generation("")
        return tuple(self._keys())

    def mark_clean(self) -> None:
        """Everything was written and sealed: the next run may trust it."""
        self._write_generation(self.generation)

    def close(self) -> None:
        """Leave the folder to others."""
        self._lock.release()

    def write(self, jobs: Sequence[Job]) -> None:
        """Do the jobs in their order per channel; after an `OSError` the same batch can be tried again."""
        for path, size_bytes in self._rollback.items():
            if path.exists():
                os.truncate(path, size_bytes)
        appends: dict[ChannelKey, list[bytes]] = {}
        sealed: set[ChannelKey] = set()
        for job in jobs:
            match job:
                case Append(key=key, items=items):
                    appends.setdefault(key, []).extend(map(_framed, items))
                    if isinstance(items[-1], Sealed):
                        sealed.add(key)
                case Replace(key=key, items=items):
                    appends.pop(key, None)
                    self._replace(self.path(key), b"".join(map(_framed, items)))
                case Remove(key=key):
                    appends.pop(key, None)
                    self._remove(self.path(key))
        for key, frames in appends.items():
            self._append(self.path(key), b"".join(frames), is_durable=key in sealed)
        self._rollback.clear()

    def read(self, key: ChannelKey) -> Contents | None:
        """A channel's file, whatever state it is in; None if there is none. A torn end is cut off.

        Raises:
            OSError: It cannot be read.
        """
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        found = scan(data)
        if found.sound_bytes < len(data):
            with contextlib.suppress(OSError):  # a disk that cannot be written may still be read
                os.truncate(path, found.sound_bytes)
        return self._contents(found.payloads, found.skipped_bytes)

    def expired(self, max_age_s: float, max_total_bytes: int) -> list[ChannelKey]:
        """Channels to forget, oldest first: those not written to for so long, and as many as are too much together."""
        files = [(stat.st_mtime, stat.st_size, key) for key in self._keys() if (stat := self._stat(key))]
        files.sort(key=lambda file: file[0])
        total_bytes = sum(size for _, size, _ in files)
        oldest_s = time.time() - max_age_s
        expired = []
        for modified_s, size_bytes, key in files:
            if modified_s >= oldest_s and total_bytes <= max_total_bytes:
                break
            expired.append(key)
            total_bytes -= size_bytes
        return expired

    def path(self, key: ChannelKey) -> Path:
        """File of a channel. Ids of the outside world are safe as names; anything else is quoted."""
        return self._folder / _quoted(key.tenant_id) / (_quoted(key.channel) + _SUFFIX)

    def _keys(self) -> Iterator[ChannelKey]:
        for tenant in sorted(self._folder.iterdir()):
            if tenant.is_dir():
                for path in sorted(tenant.glob(f"*{_SUFFIX}")):
                    yield ChannelKey(TenantId(unquote(tenant.name)), unquote(path.name.removesuffix(_SUFFIX)))

    def _stat(self, key: ChannelKey) -> os.stat_result | None:
        try:
            return self.path(key).stat()
        except FileNotFoundError:
            return None

    def _append(self, path: Path, data: bytes, *, is_durable: bool) -> None:
        with self._open_at_end(path) as file:
            self._rollback.setdefault(path, file.tell())
            file.write(data)
            if is_durable:
                file.flush()
                os.fsync(file.fileno())

    @staticmethod
    def _open_at_end(path: Path) -> BufferedWriter:
        # The folder nearly always exists, and looking first costs more than the write.
        try:
            return path.open("ab")
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
            return path.open("ab")

    def _replace(self, path: Path, data: bytes) -> None:
        self._rollback.pop(path, None)
        path.parent.mkdir(exist_ok=True)
        replace_file(path, data)

    def _remove(self, path: Path) -> None:
        self._rollback.pop(path, None)
        path.unlink(missing_ok=True)

    def _write_generation(self, name: str) -> None:
        replace_file(self._folder / "generation", frame(name.encode()))

    def _contents(self, payloads: Sequence[bytes], skipped_bytes: int) -> Contents:
        epoch, floor, sealed, memory = "", 0, None, b""
        stored: list[Stored] = []
        for payload in payloads:
            try:
                item = _decoder.decode(payload)
            except msgspec.DecodeError:
                skipped_bytes += len(payload)
                continue
            sealed = None
            match item:
                case Opened():
                    epoch, floor = item.epoch, max(floor, item.floor)
                case Sealed():
                    sealed = item
                case Remembered():
                    memory = item.memory
                case Stored(offset=offset):
                    last = stored[-1].offset if stored else 0
                    if offset <= last:
                        continue
                    if offset != last + 1 and offset > floor + 1:
                        floor = offset - 1
                    stored.append(item)
        last = max(floor, stored[-1].offset if stored else 0)
        is_certain = (
            bool(epoch)
            and not skipped_bytes
            and sealed is not None
            and sealed.generation == self.generation
            and sealed.offset == last
        )
        monotonic_s = time.monotonic() - time.time()
        entries = tuple(_entry(item, epoch, monotonic_s + item.appended_ms / 1000) for item in stored)
        return Contents(epoch, floor, entries, is_certain, skipped_bytes, memory)


def _offset(entry: Entry) -> int:
    return entry.position.offset


def in_epoch(entry: Entry, epoch: str) -> Entry:
    """The same entry in another epoch: its position and the `ep` in its bytes."""
    if entry.position.epoch == epoch:
        return entry
    # Inside a JSON string these quotes would be escaped, so the first hit is the envelope's own field.
    old, new = f'"ep":"{entry.position.epoch}"', f'"ep":"{epoch}"'
    return Entry(
        position=Position(epoch, entry.position.offset),
        kind=entry.kind,
        key=entry.key,
        is_interim=entry.is_interim,
        body=entry.body.replace(old.encode(), new.encode(), 1),
        appended_s=entry.appended_s,
        is_over=entry.is_over,
    )


def _entry(stored: Stored, epoch: str, appended_s: float) -> Entry:
    position = Position(stored.epoch, stored.offset)
    entry = Entry(position, stored.kind, stored.key, stored.is_interim, stored.body, appended_s, stored.is_over)
    return in_epoch(entry, epoch)


def _framed(item: Item) -> bytes:
    return frame(_encoder.encode(_stored(item) if isinstance(item, Entry) else item))


def _stored(entry: Entry) -> Stored:
    return Stored(
        offset=entry.position.offset,
        epoch=entry.position.epoch,
        kind=entry.kind,
        key=entry.key,
        is_interim=entry.is_interim,
        is_over=entry.is_over,
        appended_ms=(time.time() - time.monotonic() + entry.appended_s) * 1000,
        body=entry.body,
    )


def _quoted(name: str) -> str:
    quoted = quote(name, safe=":@+")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted
