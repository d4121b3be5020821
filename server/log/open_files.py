"""Files that are appended to again and again, kept open: an append is one system call instead of eight.

Each call of the system hands the interpreter's lock to another thread and has to get it back, which costs more than the
write itself. A file that was not written to for longest is closed for a new one.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

MAX_OPEN = 256
"""Files at once; a process may have a thousand, and its connections need them."""

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


@dataclass(slots=True)
class _Open:
    descriptor: int
    size_bytes: int


class OpenFiles:
    """Append-only files by path. Not thread-safe; nobody else changes a file while it is open here."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, _Open] = OrderedDict()

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

    def close_all(self) -> None:
        """Forget every file."""
        for path in tuple(self._files):
            self.close(path)

    def _get(self, path: Path) -> _Open:
        file = self._files.get(path)
        if file is not None:
            self._files.move_to_end(path)
            return file
        if len(self._files) >= MAX_OPEN:
            self.close(next(iter(self._files)))
        # The folder nearly always exists, and looking first costs more than the write.
        try:
            descriptor = os.open(path, _FLAGS, 0o666)
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
            descriptor = os.open(path, _FLAGS, 0o666)
        file = self._files[path] = _Open(descriptor, os.fstat(descriptor).st_size)
        return file
