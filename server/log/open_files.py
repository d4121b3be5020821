"""Files that are appended to again and again, kept open: an append is one system call instead of eight.

Each call of the system hands the interpreter's lock to another thread and has to get it back, which costs more than the
write itself. A file that was not written to for longest is closed for a new one.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

MAX_OPEN = 256
"""Files at once, or a quarter of what the process may have open, if that is less: its connections need the others."""

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


@dataclass(slots=True)
class _Open:
    descriptor: int
    size_bytes: int


class OpenFiles:
    """Append-only files by path. Not thread-safe; nobody else is to change a file while it is open here."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, _Open] = OrderedDict()
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_open = MAX_OPEN if allowed == resource.RLIM_INFINITY else max(1, min(MAX_OPEN, allowed // 4))

    def size_bytes(self, path: Path) -> int:
        """Size of a file, which is opened, or made with its folder, where it was not.

        Raises:
            OSError: It cannot be.
        """
        return self._get(path).size_bytes

    def append(self, path: Path, data: bytes, *, is_durable: bool) -> None:
        """Write at the end; all of it, or an error and some of it.

        Args:
            path: File.
            data: What to write.
            is_durable: Return only once the disk has it.

        Raises:
            OSError: It could not be written.
        """
        file = self._get(path)
        left = memoryview(data)
        while left:
            written = os.write(file.descriptor, left)
            file.size_bytes += written
            left = left[written:]
        if is_durable:
            os.fsync(file.descriptor)

    def close(self, path: Path) -> None:
        """Forget a file that is about to be changed otherwise."""
        file = self._files.pop(path, None)
        if file is not None:
            os.close(file.descriptor)

    def close_lost(self) -> None:
        """Forget files that somebody deleted or replaced all the same: what is appended to them nobody would find."""
        num_lost = 0
        for path, file in tuple(self._files.items()):
            if not _is_at(path, file.descriptor):
                num_lost += 1
                self.close(path)
        if num_lost:
            logger.error("files of the log were deleted or replaced by somebody", extra={"files": num_lost})

    def close_all(self) -> None:
        """Forget every file."""
        for path in tuple(self._files):
            self.close(path)

    def _get(self, path: Path) -> _Open:
        file = self._files.get(path)
        if file is not None:
            self._files.move_to_end(path)
            return file
        if len(self._files) >= self._max_open:
            self._close_oldest()
        # The folder nearly always exists, and looking first costs more than the write.
        try:
            descriptor = self._open(path)
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
            descriptor = self._open(path)
        file = self._files[path] = _Open(descriptor, os.fstat(descriptor).st_size)
        return file

    def _open(self, path: Path) -> int:
        """Open a file; where the process has no room for it, in the place of others."""
        while True:
            try:
                return os.open(path, _FLAGS, 0o666)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._files:
                    raise
                self._close_oldest()

    def _close_oldest(self) -> None:
        self.close(next(iter(self._files)))


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
