"""The embedded log on disk: one append-only file a channel, and a word on whether the last run ended well.

    <folder>/lock                       held by the one process that uses the folder
    <folder>/generation                 name of the generation after a clean stop, else empty
    <folder>/<tenant>/<channel>.log     see `server/log/frames.py`

A client's position may only be honoured if nothing that it was shown can be missing here. That is certain for a channel
whose file ends with a `Complete` of the present generation that names its last offset; a generation lives on over clean
stops and a new one begins after any other end. All functions block and run in the log's own thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote

from server.keys.keyring import DataCipher
from server.log.contract import ChannelKey, Position
from server.log.frames import Complete, Item, Outline, framed, is_in_the_clear, outline, resealed
from server.log.open_files import MAX_OPEN, OpenFiles
from server.store.durable import replace_file
from server.store.folder_lock import FolderLock
from server.store.framing import frame, scan
from server.wire.ids import TenantId

_SUFFIX = ".log"
_HEAD_BYTES = 256
"""The first frame of a file is shorter."""


@dataclass(frozen=True, slots=True)
class Append:
    """Write marks and entries at the end of a channel's file; it then has everything up to `upto`.

    `cipher` seals them; None: they are written in the clear.
    """

    key: ChannelKey
    upto: Position
    items: tuple[Item, ...]
    cipher: DataCipher | None = None


@dataclass(frozen=True, slots=True)
class Replace:
    """As `Append`, in the place of all that was there, atomically."""

    key: ChannelKey
    upto: Position
    items: tuple[Item, ...]
    cipher: DataCipher | None = None


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a channel's file."""

    key: ChannelKey


Job = Append | Replace | Remove


class ChannelFiles:
    """All files of one log. Not thread-safe: the log's one thread calls it.

    Args:
        folder: Where they are; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rollback: dict[Path, int] = {}
        self._files = OpenFiles()
        self._lock = FolderLock()
        self.generation = ""

    def open(self) -> tuple[ChannelKey, ...]:
        """Begin a run: take over the generation of a clean stop or begin one; list the channels.

        Raises:
            ConfigError: The folder cannot be used, or another process uses it.
            OSError: Its files cannot be read or written.
        """
        self._lock.acquire(self._folder)
        for beside in self._folder.glob("*/*.new"):
            beside.unlink()  # a crash left it while a file was replaced; whoever erases a call would not find it
        path = self._folder / "generation"
        name = ""
        if path.exists():
            frames = scan(path.read_bytes()).payloads
            name = frames[-1].decode() if frames else ""
        self.generation = name or secrets.token_hex(8)
        # Until `close` says otherwise this run ends badly: an empty name is no generation that was ever complete.
        self._write_generation("")
        return tuple(self._keys())

    def mark_clean(self) -> None:
        """Everything was written and is complete: the next run may trust it."""
        self._write_generation(self.generation)

    def close(self) -> None:
        """Leave the folder to others."""
        self._files.close_all()
        self._lock.release()

    def write(self, jobs: Sequence[Job]) -> None:
        """Do the jobs in their order per channel; after an `OSError` the same batch can be tried again."""
        for path, size_bytes in self._rollback.items():
            self._files.close(path)
            if path.exists():
                os.truncate(path, size_bytes)
        appends: dict[ChannelKey, list[Item]] = {}
        ciphers: dict[ChannelKey, DataCipher | None] = {}
        for job in jobs:
            match job:
                case Append(key=key, items=items, cipher=cipher):
                    appends.setdefault(key, []).extend(items)
                    ciphers[key] = cipher or ciphers.get(key)
                case Replace(key=key, items=items, cipher=cipher):
                    appends.pop(key, None)
                    self._replace(self.path(key), framed(key, items, cipher))
                case Remove(key=key):
                    appends.pop(key, None)
                    self._remove(self.path(key))
        for key, run in appends.items():  # what a channel got since the last time is sealed in one go
            self._append(self.path(key), framed(key, run, ciphers[key]), is_durable=isinstance(run[-1], Complete))
        self._rollback.clear()

    def read(self, key: ChannelKey) -> Outline | None:
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
            self._files.close(path)
            with contextlib.suppress(OSError):  # a disk that cannot be written may still be read
                os.truncate(path, found.sound_bytes)
        return outline(found.payloads, found.skipped_bytes, self.generation)

    def in_the_clear(self) -> list[ChannelKey]:
        """Channels whose files an earlier version began, which sealed nothing."""
        found = []
        for key in self._keys():
            with contextlib.suppress(FileNotFoundError), self.path(key).open("rb") as file:
                if is_in_the_clear(scan(file.read(_HEAD_BYTES)).payloads):
                    found.append(key)
        return found

    def reseal(self, key: ChannelKey, cipher: DataCipher) -> None:
        """Write such a file anew, sealed, atomically.

        Raises:
            OSError: It could not be written; it is what it was.
        """
        path = self.path(key)
        if path.exists():
            found = scan(path.read_bytes())
            self._replace(path, resealed(key, found.payloads, found.skipped_bytes, cipher))

    def close_lost(self) -> None:
        """See `OpenFiles.close_lost`."""
        self._files.close_lost()

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
        return _path(self._folder, key)

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
        self._rollback.setdefault(path, self._files.size_bytes(path))
        self._files.append(path, data, is_durable=is_durable)

    def _replace(self, path: Path, data: bytes) -> None:
        self._forget(path)
        path.parent.mkdir(exist_ok=True)
        replace_file(path, data)

    def _remove(self, path: Path) -> None:
        self._forget(path)
        path.unlink(missing_ok=True)

    def _forget(self, path: Path) -> None:
        self._rollback.pop(path, None)
        self._files.close(path)

    def _write_generation(self, name: str) -> None:
        replace_file(self._folder / "generation", frame(name.encode()))


@lru_cache(maxsize=MAX_OPEN)
def _path(folder: Path, key: ChannelKey) -> Path:
    return folder / _quoted(key.tenant_id) / (_quoted(key.channel) + _SUFFIX)


def _quoted(name: str) -> str:
    quoted = quote(name, safe=":@+")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted
