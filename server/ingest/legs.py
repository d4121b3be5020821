"""Where a telephony source's audio goes: to a recogniser of this process, or to the process that has the call.

    LocalLeg     frame ─▶ AudioSource ─▶ call           here
    RelayedLeg   frame ─▶ AudioClient ─▶ `/v1/ingest/audio` of the owner

Who feeds a leg learns from `LegLost` that the call goes on elsewhere, and takes another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from server.ingest.audio_client import AudioClient
from server.ingest.audio_source import AudioSource
from server.metrics import Metrics
from server.wire.clock import wall_ms
from server.wire.errors import CuelineError, Unavailable

BEAT_S = 2.0
"""A relayed source without audio says after so long that it lives: the owner takes a silent one for dead."""


class LegLost(Unavailable):
    """This leg leads nowhere any more; what it did not acknowledge has to be sent on another."""


class Leg(Protocol):
    """One source's way to its call, open. Event-loop thread only."""

    @property
    def start_ms(self) -> int:
        """Audio time at which it took the source up: it wants what comes after."""

    @property
    def stored_ms(self) -> int:
        """Everything said before is safe."""

    @property
    def is_broken(self) -> bool:
        """It leads nowhere any more."""

    async def feed(self, frame: bytes) -> None:
        """Take one frame; waits while the other end is behind.

        Raises:
            LegLost: See there.
            BadAudio: The frame does not fit the format.
        """

    async def finalize(self) -> None:
        """The audio pauses: what was said last is complete. Raises `LegLost`."""

    async def stop(self, *, call_ended: bool, reason: str) -> None:
        """The source is over; returns when its last words are stored.

        Args:
            call_ended: With its last source the call ends; otherwise it waits for another one.
            reason: Why, for the call's end.

        Raises:
            LegLost: They are not, send them on another leg.
        """

    async def drop(self) -> None:
        """Forget it: the call goes on elsewhere, and what this leg has not told yet is told there."""


class LocalLeg:
    """See `Leg`.

    Args:
        source: Open.
        metrics: Counts its channels.
        on_told: Told each time more audio is safe; None: nobody asks, which saves finding out.
    """

    is_broken = False

    def __init__(self, source: AudioSource, metrics: Metrics, on_told: Callable[[], None] | None = None) -> None:
        self.start_ms = self.stored_ms = int(source.arrivals.end_ms)
        self._source = source
        self._metrics = metrics
        self._on_told = on_told
        if on_told is not None:
            source.on_stored = self._on_stored
        self._num_roles = len(source.audio_format.roles)
        metrics.live_streams.inc(self._num_roles)

    async def feed(self, frame: bytes) -> None:
        """See `Leg`."""
        await self._source.feed(frame, wall_ms())

    async def finalize(self) -> None:
        """See `Leg`."""
        await self._source.finalize()

    async def stop(self, *, call_ended: bool, reason: str) -> None:
        """See `Leg`."""
        self._forget()
        await self._source.close()
        if not call_ended and self._on_told is None:  # nobody could send its last words again
            self._source.call.lost(self._source.arrivals.end_ms)
            return
        with _lost_when_refused():
            end_ms = self._source.arrivals.end_ms
            await self._source.call.stop(call_ended=call_ended, reason=reason, end_ms=end_ms)

    async def drop(self) -> None:
        """See `Leg`."""
        self._forget()
        self._source.call.lost()  # at once: another source of this side may come before its recogniser is through
        await self._source.close()

    async def _on_stored(self, stored_ms: int) -> None:
        self.stored_ms = stored_ms
        if self._on_told is not None:
            self._on_told()

    def _forget(self) -> None:
        self._metrics.live_streams.dec(self._num_roles)
        self._num_roles = 0


class RelayedLeg:
    """See `Leg`.

    Args:
        client: Open.
    """

    def __init__(self, client: AudioClient) -> None:
        self.start_ms = client.resume_from_ms
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._fed_s = self._loop.time()
        self._beat = asyncio.create_task(self._live(), name="relay-beat")

    @property
    def stored_ms(self) -> int:
        """See `Leg`."""
        return self._client.stored_ms

    @property
    def is_broken(self) -> bool:
        """See `Leg`."""
        return self._client.is_broken

    async def feed(self, frame: bytes) -> None:
        """See `Leg`."""
        self._fed_s = self._loop.time()
        with _lost_when_refused():
            await self._client.send(frame)

    async def finalize(self) -> None:
        """See `Leg`."""
        self._fed_s = self._loop.time()
        with _lost_when_refused():
            await self._client.keep_alive()

    async def stop(self, *, call_ended: bool, reason: str) -> None:
        """See `Leg`; the owner has a reason of its own."""
        self._beat.cancel()
        with _lost_when_refused():
            await self._client.stop(call_ended=call_ended)

    async def drop(self) -> None:
        """See `Leg`."""
        self._beat.cancel()
        await asyncio.gather(self._beat, return_exceptions=True)
        await self._client.close()

    async def _live(self) -> None:
        with contextlib.suppress(LegLost):  # who feeds it is told as well
            while True:
                await asyncio.sleep(BEAT_S)
                if self._loop.time() - self._fed_s >= BEAT_S:
                    await self.finalize()


@contextlib.contextmanager
def _lost_when_refused() -> Iterator[None]:
    try:
        yield
    except CuelineError as error:
        raise LegLost(error.message) from error
