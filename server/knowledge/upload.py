"""A ZIP of articles, unpacked where nothing of it can do harm.

bytes ─▶ names and sizes checked before anything is written ─▶ folder
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path, PurePosixPath

from server.wire.errors import BadRequest, TooLarge

MAX_FILES = 20_000
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_TOTAL_BYTES = 512 * 1024 * 1024
_BLOCK_BYTES = 1024 * 1024


def unpack(archive: bytes, folder: Path) -> None:
    """Unpack into an empty folder. Blocks; not for the event loop.

    Raises:
        BadRequest: It is no ZIP, is damaged, or a name leads out of the folder.
        TooLarge: More files, or more in them, than a knowledge base takes in one go; whatever the archive claims.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            entries = [entry for entry in files.infolist() if not entry.is_dir()]
            if len(entries) > MAX_FILES:
                raise TooLarge(f"more than {MAX_FILES} files", field="body")
            left_bytes = MAX_TOTAL_BYTES
            for entry in entries:
                target = folder.joinpath(*_parts(entry.filename))
                target.parent.mkdir(parents=True, exist_ok=True)
                left_bytes -= _copy(files, entry, target, min(left_bytes, MAX_FILE_BYTES))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise BadRequest("is no ZIP archive that can be read", field="body") from error


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or "\0" in name:
        raise BadRequest("a file of the archive leads out of its folder", field="body")
    return path.parts


def _copy(files: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, max_bytes: int) -> int:
    """Copy one file; its size is counted, not believed."""
    num_bytes = 0
    with files.open(entry) as source, open(target, "wb") as file:
        while block := source.read(_BLOCK_BYTES):
            num_bytes += len(block)
            if num_bytes > max_bytes:
                raise TooLarge("a file of the archive, or all of them, are too large", field="body")
            file.write(block)
    return num_bytes
