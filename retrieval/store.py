"""Where bases live, and how one generation replaces another at once.

    DATA/kb/<tenant>/<base>/current             name of the generation that is searched
    DATA/kb/<tenant>/<base>/generations/7/…     whole generations; the newest few are kept for `rollback`
    DATA/kb/<tenant>/<base>/generations/.new-…  one being written

write ─▶ rename of the folder ─▶ rename of `current`. A search that is under way keeps the files it has mapped.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from retrieval.errors import BadQuery, BaseBusy, DamagedIndex, NoSuchBase, NothingBefore, Unwritable, ingest_command
from retrieval.manifest import Manifest

KEPT_GENERATIONS = 4
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
_CURRENT = "current"
_NEW = ".new"


class BaseStore:
    """Folders of one base. Methods may be called from any thread and any process."""

    def __init__(self, data: Path, tenant: str, base: str) -> None:
        """Address a base; nothing is read or made.

        Args:
            data: The data directory.
            tenant: Owner.
            base: Name.

        Raises:
            BadQuery: If a name is none: it becomes a folder, and must not leave its tenant's.
        """
        for field, name in (("tenant", tenant), ("kb", base)):
            if not _NAME.fullmatch(name):
                raise BadQuery("expected letters, digits, hyphens and underscores, 64 at most", field=field)
        self.data = data
        self.tenant = tenant
        self.base = base
        self.folder = data / "kb" / tenant / base
        self._generations = self.folder / "generations"

    def current(self) -> int:
        """Return the number of the generation that is searched.

        Raises:
            NoSuchBase: If the base was never ingested, or deleted.
            DamagedIndex: If the pointer is torn.
        """
        try:
            return int((self.folder / _CURRENT).read_text("ascii"))
        except FileNotFoundError as error:
            raise NoSuchBase(
                f"there is no knowledge base {self.base}; make it: {ingest_command(self.base, self.tenant)}", field="kb"
            ) from error
        except (ValueError, OSError) as error:
            raise DamagedIndex(
                f"knowledge base {self.base}: `{_CURRENT}` cannot be read; "
                f"rebuild it: {ingest_command(self.base, self.tenant)}",
                field="kb",
            ) from error

    def path(self, generation: int) -> Path:
        """Return the folder of a generation."""
        return self._generations / str(generation)

    def generations(self) -> list[int]:
        """Return the numbers of the whole generations, ascending."""
        if not self._generations.is_dir():
            return []
        return sorted(int(path.name) for path in self._generations.iterdir() if path.name.isdecimal())

    @property
    def is_rolled_back(self) -> bool:
        """Whether a newer generation than the one that is searched is there. Raises as `current`."""
        return self.current() < max(self.generations(), default=0)

    def manifest(self, generation: int | None = None) -> Manifest:
        """Read the manifest of a generation; None: of the current one.

        Raises:
            NoSuchBase: As `current`.
            DamagedIndex: If it cannot be read, or is of another format.
        """
        number = self.current() if generation is None else generation
        return Manifest.read(self.path(number), self.base, self.tenant)

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Hold the base for an ingest and give an empty folder to write into; it vanishes unless published.

        Raises:
            BaseBusy: If another ingest holds it.
            Unwritable: If the system lets nobody write here.
        """
        folder = self._generations / _NEW
        with ExitStack() as held:
            with self.write_errors():
                self._generations.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context(open(self.folder / "lock", "wb"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise BaseBusy(f"knowledge base {self.base} is being ingested", field="kb") from error
                shutil.rmtree(folder, ignore_errors=True)  # of an ingest that was killed
                folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def write_errors(self) -> Iterator[None]:
        """Give what the system says of a write its name.

        Raises:
            Unwritable: If it fails.
        """
        try:
            yield
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise Unwritable(f"knowledge base {self.base} cannot be written ({why})", field="kb") from error

    def publish(self, folder: Path, generation: int) -> None:
        """Make a written folder the current generation. Call it inside `writing`."""
        _sync(folder)
        os.replace(folder, self.path(generation))
        self.point(generation)
        for old in self.generations()[:-KEPT_GENERATIONS]:
            if old != generation:
                shutil.rmtree(self.path(old), ignore_errors=True)

    def point(self, generation: int) -> None:
        """Search this generation from now on."""
        staged = self.folder / f"{_CURRENT}.new"
        with open(staged, "w", encoding="ascii") as file:
            file.write(str(generation))
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, self.folder / _CURRENT)

    def rollback(self) -> int:
        """Go back to the whole generation before the current one.

        Returns:
            Its number.

        Raises:
            NoSuchBase: As `current`.
            NothingBefore: If there is none before it.
            Unwritable: If the system lets nobody write here.
        """
        current = self.current()
        for older in reversed([number for number in self.generations() if number < current]):
            try:
                self.manifest(older)
            except DamagedIndex:
                continue
            with self.write_errors():
                self.point(older)
            return older
        raise NothingBefore(f"knowledge base {self.base} has no generation before {current}", field="kb")

    def delete(self) -> None:
        """Remove the base. Searches under way finish on what they have mapped.

        Raises:
            BaseBusy: If an ingest is writing into it.
            Unwritable: If the system lets nobody write here.
        """
        with self.writing(), self.write_errors():
            (self.folder / _CURRENT).unlink(missing_ok=True)  # first: nobody opens half a base
            shutil.rmtree(self.folder, ignore_errors=True)


def tenants(data: Path) -> list[str]:
    """Return the owners of bases."""
    folder = data / "kb"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def bases(data: Path, tenant: str) -> list[str]:
    """Return the names of a tenant's bases."""
    if not _NAME.fullmatch(tenant):
        return []
    folder = data / "kb" / tenant
    return sorted(path.name for path in folder.iterdir() if (path / _CURRENT).is_file()) if folder.is_dir() else []


def _sync(folder: Path) -> None:
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
