"""One process a folder: two writers in one journal would each be right and both be wrong."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from server.wire.errors import ConfigError


class FolderLock:
    """Held from `acquire` to `release`, or to the end of the process, however it ends."""

    def __init__(self) -> None:
        self._file: int | None = None

    def acquire(self, folder: Path) -> None:
        """Make the folder if it is missing and take it.

        Raises:
            ConfigError: It cannot be used, or another process has it.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"the folder cannot be used: {error.strerror}", field=str(folder)) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            raise ConfigError("the folder is in use by another process", field=str(folder)) from error
        self._file = file

    def release(self) -> None:
        """Leave it to others. Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
