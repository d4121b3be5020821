"""An append-only journal in numbered files: written at the end, drained from the beginning, deleted behind the reader.

    0000000001.journal  0000000002.journal  …     framed payloads; only the last one grows

What `write` returned from is on the disk, and a crash at any byte loses nothing of it; it may be read twice after one.
Methods block, and the owner's one thread calls them; `end`, `read` and `total_bytes` may be looked at from elsewhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server.store.framing import frame, scan

_SUFFIX = ".journal"

Place = tuple[int, int]
"""Segment number and byte position in it; places compare in journal order."""


@dataclass(frozen=True, slots=True)
class Page:
    """Payloads from the reading place on.

    Attributes:
        payloads: In the order in which they were written; may be none where there was only damage.
        end: Place behind them.
        damaged_bytes: What was stepped over or torn off before `end`.
    """

    payloads: tuple[bytes, ...]
    end: Place
    damaged_bytes: int


class Segments:
    """The files of one journal.

    Args:
        folder: Where they are; has to exist.
        max_segment_bytes: A file of this size is closed and the next one begun.
        max_page_payloads: Most payloads of one page.
    """

    def __init__(self, folder: Path, *, max_segment_bytes: int, max_page_payloads: int) -> None:
        self._folder = folder
        self._max_segment_bytes = max_segment_bytes
        self._max_page_payloads = max_page_payloads
        self.total_bytes = 0
        self._sizes: dict[int, int] = {}
        self._active = 1
        self._read: Place = (1, 0)
        self._file: int | None = None

    @property
    def end(self) -> Place:
        """Where the next payload will stand."""
        return self._active, self._sizes.get(self._active, 0)

    @property
    def read(self) -> Place:
        """Where the next page begins."""
        return self._read

    def open(self) -> int:
        """Find what an earlier run left; returns how many payloads that is.

        Raises:
            OSError: The folder cannot be read.
        """
        num_left = 0
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if path.stem.isdigit():
                data = path.read_bytes()
                self._sizes[int(path.stem)] = len(data)
                self.total_bytes += len(data)
                num_left += len(scan(data).payloads)
        # A file that a crash may have torn is never written to again.
        self._active = max(self._sizes, default=0) + 1
        self._read = (min(self._sizes, default=self._active), 0)
        return num_left

    def write(self, payloads: Sequence[bytes]) -> None:
        """Append and make durable.

        Raises:
            OSError: Nothing is certain; call again with the same payloads.
        """
        if self._sizes.get(self._active, 0) >= self._max_segment_bytes:
            self._begin_next()
        data = b"".join(map(frame, payloads))
        try:
            if self._file is None:
                self._file = self._create(self._active)
            _write_all(self._file, data)
            os.fdatasync(self._file)
        except OSError:
            # After a failed sync nobody knows what the file holds: it keeps what was certain, the rest goes elsewhere.
            size_bytes = self._sizes.get(self._active, 0)
            if self._file is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, size_bytes)
            self._close_file()
            if size_bytes:
                self._active += 1
            raise
        self._sizes[self._active] = self._sizes.get(self._active, 0) + len(data)
        self.total_bytes += len(data)

    def next_page(self) -> Page | None:
        """What stands at the reading place; None if everything was read.

        Raises:
            OSError: The file cannot be read.
        """
        self._step()
        segment, position = self._read
        size_bytes = self._sizes.get(segment, 0)
        if position >= size_bytes:
            return None
        with self._path(segment).open("rb") as file:
            file.seek(position)
            data = file.read(size_bytes - position)
        found = scan(data)
        payloads = tuple(found.payloads[: self._max_page_payloads])
        if len(payloads) < len(found.payloads):
            return Page(payloads, (segment, position + found.ends[len(payloads) - 1]), 0)
        return Page(payloads, (segment, size_bytes), found.skipped_bytes + len(data) - found.sound_bytes)

    def forget(self, page: Page) -> None:
        """Go on reading behind this page; files that lie behind the reader are deleted.

        Raises:
            OSError: A file cannot be deleted; call again.
        """
        self._read = page.end
        if page.end == self.end and page.end[1] >= self._max_segment_bytes // 4:
            self._begin_next()  # so that an idle journal is a small one
        self._drop_read()

    def rotate(self) -> None:
        """Write on in a new file, so that the present one goes as soon as it has been read.

        Raises:
            OSError: A file cannot be deleted; call again.
        """
        if self._sizes.get(self._active):
            self._begin_next()
        self._drop_read()

    def _drop_read(self) -> None:
        self._step()
        for segment in [segment for segment in self._sizes if segment < self._read[0]]:
            self._path(segment).unlink(missing_ok=True)
            self.total_bytes -= self._sizes.pop(segment)

    def _step(self) -> None:
        """Leave segments that were read to their end and that nobody writes to any more."""
        segment, position = self._read
        while segment < self._active and position >= self._sizes.get(segment, 0):
            segment, position = segment + 1, 0
        self._read = segment, position

    def close(self) -> None:
        """Close the files; a journal that was read to its end leaves none."""
        self._close_file()
        if self._read >= self.end:
            self._path(self._active).unlink(missing_ok=True)

    def _begin_next(self) -> None:
        self._close_file()
        self._active += 1

    def _create(self, segment: int) -> int:
        file = os.open(self._path(segment), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            os.close(file)
            raise
        return file

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:010}{_SUFFIX}"


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
