"""Fan-out inside one process: one follower of the log a channel, any number of readers behind it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from server.feed.outgoing import Outgoing
from server.log.contract import ChannelKey, Entry, EventLog
from server.metrics import Metrics

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """Someone who reads a channel."""

    def deliver(self, publications: Outgoing) -> None:
        """Take publications; called in offset order from the event loop, must not block."""

    def lose(self) -> None:
        """A publication could not be delivered and nothing more comes: the reader must start over."""


class Hub:
    """Joins readers to channels.

    Args:
        log: Where publications come from.
        metrics: `feed_deliver` is observed here, once a fan-out, after its last write.
        clock: Monotonic, the one that `Entry.appended_s` is of.
    """

    def __init__(self, log: EventLog, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._channels: dict[ChannelKey, _Channel] = {}

    def join(self, key: ChannelKey, reader: Reader) -> None:
        """Deliver everything appended from now on."""
        channel = self._channels.get(key)
        if channel is None:
            channel = _Channel(self._metrics, self._clock)
            channel.stop = self._log.follow(key, channel.fan_out, channel.lose)
            self._channels[key] = channel
        channel.readers = (*channel.readers, reader)

    def leave(self, key: ChannelKey, reader: Reader) -> None:
        """Deliver nothing more; leaving twice is fine."""
        channel = self._channels.get(key)
        if channel is None:
            return
        channel.readers = tuple(other for other in channel.readers if other is not reader)
        if not channel.readers:
            del self._channels[key]
            channel.stop()

    def __len__(self) -> int:
        """Channels that someone reads."""
        return len(self._channels)


class _Channel:
    __slots__ = ("_clock", "_deliver", "readers", "stop")

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._deliver = metrics.feed_deliver
        self._clock = clock
        self.readers: tuple[Reader, ...] = ()
        self.stop: Callable[[], None] = _nothing

    def fan_out(self, entries: Sequence[Entry]) -> None:
        publications = Outgoing(entries)
        for reader in self.readers:  # a tuple: readers may leave while it runs
            try:
                reader.deliver(publications)
            except Exception:
                # One broken reader must neither hold up the others nor fail the append that called us.
                logger.exception("a feed reader failed and is cut")
                reader.lose()
        self._deliver.observe(self._clock() - entries[0].appended_s)

    def lose(self) -> None:
        for reader in self.readers:
            reader.lose()


def _nothing() -> None:
    """What ends a channel that does not follow yet."""
