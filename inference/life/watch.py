"""Which versions lie in the folder, and whether their files are whole.

    stat of every file ──▶ fingerprint a version ──unchanged for settle_s──▶ settled ──SHA256SUMS──▶ whole

A copy changes sizes and times while it runs, so a version that is still being written is not settled. Where a
`SHA256SUMS` came along (`sha256sum * > SHA256SUMS`), it proves that nothing is missing.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path

from inference.errors import ModelError
from inference.regular_file import open_regular, read_small
from inference.repository import version_number

Seen = Mapping[str, Mapping[int, str]]
"""Model to version to fingerprint."""

SUMS_FILE = "SHA256SUMS"
_BLOCK_BYTES = 1 << 20


def scan(repository: Path) -> Seen:
    """Fingerprint every version of every model by the names, sizes and times of its files; reads none of them.

    A version's fingerprint covers the files of its model as well: labels, config, tokeniser.

    Raises:
        OSError: If the folder cannot be listed.
    """
    seen: dict[str, dict[int, str]] = {}
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        if folder.name.startswith((".", "_")):
            continue
        shared, versions = [], {}
        for child in sorted(folder.iterdir()):
            number = version_number(child)
            if number is not None:
                versions[number] = [_stat(file, child) for file in sorted(child.rglob("*"))]
            elif child.is_file():
                shared.append(_stat(child, folder))
        seen[folder.name] = {
            number: hashlib.sha256(repr((shared, files)).encode()).hexdigest()[:16]
            for number, files in versions.items()
        }
    return seen


def _stat(file: Path, folder: Path) -> tuple[str, int, int]:
    try:
        found = file.stat()
    except OSError:  # renamed or removed since it was listed, or a link to itself: other versions do not suffer
        return str(file.relative_to(folder)), -1, -1
    return str(file.relative_to(folder)), found.st_size if stat.S_ISREG(found.st_mode) else 0, found.st_mtime_ns


class Settling:
    """Remembers since when each fingerprint is what it is. Pure, given `now_s`."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._since: dict[tuple[str, int], tuple[str, float]] = {}

    def settled(self, seen: Seen, now_s: float) -> dict[str, dict[int, str]]:
        """Return the part of what was seen that has not changed for long enough."""
        since: dict[tuple[str, int], tuple[str, float]] = {}
        calm: dict[str, dict[int, str]] = {}
        for model, versions in seen.items():
            for number, fingerprint in versions.items():
                known = self._since.get((model, number))
                at_s = known[1] if known is not None and known[0] == fingerprint else now_s
                since[model, number] = (fingerprint, at_s)
                if now_s - at_s >= self._settle_s:
                    calm.setdefault(model, {})[number] = fingerprint
        self._since = since
        return calm


def check_sums(folder: Path) -> None:
    """Compare the files of a version with its `SHA256SUMS`, where it has one; reads all of them, blocks.

    Raises:
        ModelError: Naming the first file that is missing or another one.
    """
    where = f"{folder.parent.name}/{folder.name}/{SUMS_FILE}"
    try:
        lines = read_small(folder / SUMS_FILE).decode("utf-8").splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot be read ({type(error).__name__})", path=where) from error
    for number, line in enumerate(lines, 1):
        expected, _, name = line.partition(" ")
        file = folder / name.strip().removeprefix("*")
        if not name or file.resolve().parent != folder.resolve():
            raise ModelError("expected a digest and a file of this folder", path=where, key=f"line {number}")
        digest = hashlib.sha256()
        try:
            with open_regular(file) as opened:
                while block := opened.read(_BLOCK_BYTES):
                    digest.update(block)
        except OSError as error:
            raise ModelError(f"{file.name} cannot be read ({type(error).__name__})", path=where) from error
        if digest.hexdigest() != expected:
            raise ModelError(f"{file.name} is another file, or not all of it", path=where)
