"""A tape with a bound: the newest audio in memory, older audio in the spool, what is older than both is gone.

[ lost ) [ spool: sealed records ) [ tape: memory )
         ^ start                                  ^ end
"""

from __future__ import annotations

import asyncio
import logging

from cryptography.exceptions import InvalidTag

from server.speech.recovery.settings import RecoverySettings
from server.speech.recovery.spool import Spool
from server.speech.recovery.tape import BYTES_PER_SAMPLE, Tape
from server.wire.errors import Unavailable

log = logging.getLogger(__name__)


class AudioGone(Unavailable):
    """Audio that was asked for is neither in memory nor on disk."""


class Keeper:
    """Unrecognised audio of one side. Used by one writer; any task may read.

    Args:
        rate_hz: Samples a second; one second is a record of the spool.
        settings: Bounds.
    """

    def __init__(self, rate_hz: int, settings: RecoverySettings) -> None:
        self._rate_hz = rate_hz
        self._settings = settings
        self._tape = Tape(rate_hz)
        self._spool: Spool | None = None
        self._spool_origin = 0
        self._num_spooled = 0
        self._is_sealing = False
        self._start = 0

    @property
    def start(self) -> int:
        """First sample that can still be read."""
        return self._start

    @property
    def end(self) -> int:
        """Position after the last sample."""
        return self._tape.end

    async def append(self, pcm: bytes) -> None:
        """Take samples; what the ring has no room for goes to the spool."""
        self._tape.append(pcm)
        while self._tape.end - self._tape.start > self._settings.ring_s * self._rate_hz + self._rate_hz:
            await self._spill()

    async def read(self, position: int, max_samples: int) -> bytes:
        """Samples from a position on, at most so many, often fewer; empty at the end.

        Raises:
            AudioGone: They are not here any more; `start` says from where on there is audio.
        """
        if position < self._start:
            raise AudioGone("this audio was given up")
        if position >= self._tape.start:
            return self._tape.read(position, max_samples)
        number, offset = divmod(position - self._spool_origin, self._rate_hz)
        assert self._spool is not None
        try:
            record = await asyncio.to_thread(self._spool.read, number)
        except (OSError, InvalidTag) as error:
            log.exception("a spooled second of audio cannot be read")
            self._start = max(self._start, self._spool_origin + (number + 1) * self._rate_hz)
            raise AudioGone("this audio cannot be read back") from error
        return record[offset * BYTES_PER_SAMPLE : (offset + max_samples) * BYTES_PER_SAMPLE]

    def forget(self, before: int) -> None:
        """Give up what is recognised; a vendor may claim a little more than it was sent."""
        before = min(before, self.end)
        if before <= self._start:
            return
        self._start = before
        if before >= self._tape.start:
            self._tape.forget(before)
            if not self._is_sealing:
                self._drop_spool()

    def quietest(self, from_position: int, to_position: int) -> int:
        """See `Tape.quietest`; looks at what is in memory."""
        return self._tape.quietest(max(from_position, self._tape.start), to_position)

    def close(self) -> None:
        """Forget everything."""
        self.forget(self.end)

    async def _spill(self) -> None:
        """Move the oldest second from memory to disk, or give it up where there is no disk."""
        origin, max_records = self._tape.start, int(self._settings.spool_s)
        if max_records:
            # It stays in memory until it is on disk: a reader may want it meanwhile.
            record = self._tape.read(origin, self._rate_hz)
            self._is_sealing = True
            try:
                await asyncio.to_thread(self._seal, record, origin, max_records)
            except OSError:
                log.exception("audio cannot be spooled")
                self._drop_spool()
            finally:
                self._is_sealing = False
        self._tape.forget(origin + self._rate_hz)
        if self._start >= self._tape.start:
            self._drop_spool()
            return
        oldest = self._tape.start
        if self._spool is not None:
            oldest = self._spool_origin + max(0, self._num_spooled - max_records) * self._rate_hz
        self._start = max(self._start, oldest)

    def _seal(self, record: bytes, origin: int, max_records: int) -> None:
        if self._spool is None:
            self._spool = Spool(self._settings.spool_folder, len(record), max_records)
            self._spool_origin, self._num_spooled = origin, 0
        self._spool.append(record)
        self._num_spooled += 1

    def _drop_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None
