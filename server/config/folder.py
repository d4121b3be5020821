"""The data directory: there, and ours to write, before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from server.wire.errors import ConfigError


def make_folder(path: Path) -> None:
    """Make the data directory if it is missing.

    Raises:
        ConfigError: It cannot be made or written: a file is in its place, no right, a read-only disk. Names it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be used: {error.strerror}", field="data_dir") from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"{path} cannot be written: a read-only disk, or another user's folder", field="data_dir")
