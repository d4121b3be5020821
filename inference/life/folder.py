"""The repository as it was last looked at: which versions lie there, which are quiet, what the configs say.

look ─scan─▶ seen ─settle─▶ settled ─changed?─▶ models
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from inference.errors import ModelError
from inference.life.watch import Seen, Settling, scan
from inference.repository import Model, ModelRepository


class Folder:
    """Event-loop thread only; reads in threads.

    Attributes:
        seen: Every version in the folder, with the fingerprint of its files.
        settled: Those whose files are quiet.
        models: With a readable config, as of when something last settled.
    """

    def __init__(self, path: Path, settle_s: float, clock: Callable[[], float]) -> None:
        """Know nothing yet.

        Args:
            path: The repository.
            settle_s: How long nothing of a version may have changed.
            clock: Monotonic seconds.
        """
        self.seen: Seen = {}
        self.settled: Seen = {}
        self.models: Mapping[str, Model] = {}
        self._path = path
        self._clock = clock
        self._settling = Settling(settle_s)
        self._described: Seen = {}

    async def open(self) -> None:
        """Look for the first time.

        Raises:
            ModelError: If the folder cannot be listed.
        """
        try:
            self.seen = await asyncio.to_thread(scan, self._path)
            self.models = (await asyncio.to_thread(ModelRepository.open, self._path)).models
        except OSError as error:
            raise ModelError(f"cannot be listed ({type(error).__name__})", path=self._path.name) from error
        self._settling.settled(self.seen, self._clock())

    async def look(self) -> None:
        """Look again.

        Raises:
            OSError: If the folder cannot be listed.
            ModelError: If it is gone.
        """
        self.seen = await asyncio.to_thread(scan, self._path)
        self.settled = self._settling.settled(self.seen, self._clock())
        if self.settled != self._described:
            self.models = (await asyncio.to_thread(ModelRepository.open, self._path)).models
            self._described = self.settled

    def fingerprint(self, model: str, version: int) -> str | None:
        """Of the files of a version; None where it was not seen."""
        return self.seen.get(model, {}).get(version)
