"""Records of all models in one small file, so that a decision outlives its process and reaches the others."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from inference.errors import ModelError
from inference.fleet import Wish
from inference.life.record import Record

Records = dict[str, Record]


def read_records(path: Path) -> Records:
    """Read the file; empty where there is none.

    Raises:
        ModelError: If it is damaged. It says what may be served, so it is never overlooked.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Records)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(
            f"cannot be read: {error}; remove it to start from the version policy", path=path.name
        ) from error


def write_records(path: Path, records: Mapping[str, Record]) -> None:
    """Replace the file whole; blocks for a disk write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(records), indent=1))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def update_records(path: Path, change: Callable[[Records], Mapping[str, Record]]) -> None:
    """Change what the file says while no other process does; blocks for a disk write.

    Args:
        path: The file.
        change: Given what the file says, returns what it is to say.

    Raises:
        ModelError: If the file is damaged; it stays as it is.
        OSError: If it cannot be written; it stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("ab") as lock:  # the kernel frees it with the process
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_records(path, change(read_records(path)))


def wishes(records: Mapping[str, Record]) -> dict[str, Wish]:
    """What the start should do about it."""
    return {name: Wish(record.serving, frozenset(record.set_aside)) for name, record in records.items()}
