"""A file that is replaced whole: after a crash or a power cut it is the old one or the new one, and never a part."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write beside the file, wait for the disk, take its place, and wait for the folder. Blocks.

    Raises:
        OSError: It could not be written; the file is what it was.
    """
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
