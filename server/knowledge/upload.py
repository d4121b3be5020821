"""A ZIP of articles, unpacked where nothing of it can do harm.

bytes ─▶ names and sizes checked before anything is written ─▶ folder
"""

from __future__ import annotations

import errno
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from server.wire.errors import BadRequest, TooLarge, Unavailable

MAX_FILES = 20_000
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_TOTAL_BYTES = 512 * 1024 * 1024
_BLOCK_BYTES = 1024 * 1024
_OF_NAMES = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ})
"""What a file system says of names that it does not take, or not beside each other."""


def unpack(archive: bytes, folder: Path) -> None:
    """Unpack into an empty folder. Blocks; not for the event loop.

    Raises:
        BadRequest: It is no ZIP, is damaged, or has names that no folder can hold, or that lead out of it.
        TooLarge: More files, or more in them, than a knowledge base takes in one go; whatever the archive claims.
        Unavailable: There is no room for it, or no permission to write it.
    """
    try:
        files = zipfile.ZipFile(io.BytesIO(archive))
    except Exception as error:
        raise _damaged() from error
    with files:
        entries = [entry for entry in files.infolist() if not entry.is_dir()]
        if len(entries) > MAX_FILES:
            raise TooLarge(f"more than {MAX_FILES} files", field="body")
        left_bytes = MAX_TOTAL_BYTES
        for entry in entries:
            target = folder.joinpath(*_parts(entry.filename))
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                left_bytes -= _write(_blocks(files, entry), target, left_bytes)
            except OSError as error:  # of writing: `_blocks` names what is wrong with the archive
                raise _unwritable(error) from error


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or "\0" in name:
        raise BadRequest("a file of the archive leads out of its folder", field="body")
    return path.parts


def _blocks(files: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with files.open(entry) as source:
            while block := source.read(_BLOCK_BYTES):
                yield block
    except Exception as error:  # damage comes out of it in a dozen kinds: `zlib.error`, OSError of bzip2, ValueError, …
        raise _damaged() from error


def _write(blocks: Iterator[bytes], target: Path, left_bytes: int) -> int:
    """Write one file; its size is counted, not believed."""
    num_bytes = 0
    with open(target, "wb") as file:
        for block in blocks:
            num_bytes += len(block)
            if num_bytes > MAX_FILE_BYTES:
                raise TooLarge(f"a file of the archive has more than {MAX_FILE_BYTES} bytes", field="body")
            if num_bytes > left_bytes:
                raise TooLarge(f"the files of the archive have more than {MAX_TOTAL_BYTES} bytes", field="body")
            file.write(block)
    return num_bytes


def _damaged() -> BadRequest:
    return BadRequest("is no ZIP archive that can be read", field="body")


def _unwritable(error: OSError) -> BadRequest | Unavailable:
    if error.errno in _OF_NAMES:
        return BadRequest("the names of the archive's files make no folder", field="body")
    return Unavailable(f"the archive cannot be unpacked here ({error.strerror or type(error).__name__})")
