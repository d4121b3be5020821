"""Who follows one channel in this process: entries from here and from elsewhere, put into one order. Pure.

An entry may come twice (appended here and pushed back) or early (a push still on its way); it is told once and in
order, and what is missing is read from the stream.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from server.log.contract import Entry, Position, Recovery, Sink

logger = logging.getLogger(__name__)

Reader = tuple[Sink, Callable[[], None]]


class Follower:
    """One channel.

    Args:
        topic: Its stream.
    """

    __slots__ = ("_base", "_ended", "_readers", "_told", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._told: Position | None = None
        self._base: Position | None = None
        self._readers: list[Reader] = []
        self._ended: set[str] = set()

    @property
    def position(self) -> Position | None:
        """Of the newest entry told; before the first, where the channel stood when its pushes began."""
        return self._told or self._base

    @property
    def is_empty(self) -> bool:
        """Nobody follows any more."""
        return not self._readers

    def add(self, sink: Sink, lost: Callable[[], None], on_end: Callable[[], None]) -> Callable[[], None]:
        """Tell this one too; returns the function that ends it (idempotent) and then calls `on_end`."""
        reader = (sink, lost)
        self._readers.append(reader)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._readers.remove(reader)
            on_end()

        return end

    def offer(self, entry: Entry) -> bool:
        """Tell an entry if it is the next one; False: entries before it are missing, so catch up."""
        if entry.position.epoch in self._ended:
            return True  # an echo from before a new epoch began
        told = self._told
        if told is None or entry.position.epoch != told.epoch or entry.position.offset == told.offset + 1:
            self._tell(entry)
            return True
        return entry.position.offset <= told.offset

    def catch_up(self, after: Position | None, recovery: Recovery) -> None:
        """Tell what was read after a former `position`; if that is not all that is missing, tell that it is lost."""
        if after is None:
            # Not told: what was appended since somebody follows may be in it and is still on its way to be told.
            self._base = recovery.position
        elif recovery.recovered:
            for entry in recovery.tail:
                if self._told is None or entry.position.offset > self._told.offset:
                    self._tell(entry)
        elif recovery.position != self.position and recovery.position.epoch not in self._ended:
            self._stand(recovery.position)
            self.lose()

    def start_over(self) -> None:
        """Forget where it stood; the epochs that seemed over may not be."""
        self._told = self._base = None
        self._ended.clear()
        self.lose()

    def lose(self) -> None:
        """Readers have to start over."""
        for _, lost in tuple(self._readers):
            lost()

    def _stand(self, position: Position) -> None:
        if self._told is not None and self._told.epoch != position.epoch:
            self._ended.add(self._told.epoch)
        self._told = position

    def _tell(self, entry: Entry) -> None:
        self._stand(entry.position)
        for sink, _ in tuple(self._readers):
            try:
                sink((entry,))
            except Exception:
                # One broken reader must not cost the others, nor the writer, this entry.
                logger.exception("a follower failed", extra={"kind": entry.kind})
