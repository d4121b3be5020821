"""Files of a model folder are read only where reading ends: a pipe without a writer would hold its reader for ever."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

MAX_SMALL_BYTES = 64 << 20
"""Far above any config, labels, heads, golden inputs or tokeniser."""


class NotRegularFileError(OSError):
    """It is a pipe, a device, a socket or a folder."""


class FileTooLargeError(OSError):
    """Reading it whole would take memory from what serves."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file, whatever lies at its path; never waits for somebody to write to it.

    Raises:
        NotRegularFileError: If it is none.
        OSError: If it cannot be opened.
    """
    # Not looked at first and then opened: it might be another one by then.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularFileError("is no regular file")
    return os.fdopen(descriptor, "rb")


def read_small(path: Path) -> bytes:
    """Read a file whole.

    Raises:
        NotRegularFileError: If it is none.
        FileTooLargeError: If it has more than `MAX_SMALL_BYTES`.
        OSError: If it cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(MAX_SMALL_BYTES + 1)
    if len(content) > MAX_SMALL_BYTES:
        raise FileTooLargeError(f"has more than {MAX_SMALL_BYTES} bytes")
    return content
