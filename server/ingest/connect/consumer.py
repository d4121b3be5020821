"""Reads one contact to its end, whatever breaks on the way.

    cursor ─▶ sides open, each says how far the server is ─▶ GetMedia from the mark before that ─▶ sides
       ▲                                                          │ broke, stalled, throttled, server gone
       └── marks, as fragments end ───────────────────────────────┴──▶ back off, once more

Nothing is buffered: the stream keeps the audio, the server says what it has. So a second process that finds the cursor
does exactly what this one does after a broken connection. Source: PROTOCOLS b2; OPERATIONS d3, "GetMedia".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from server.config.settings import ConnectSettings
from server.ingest.connect.contact_audio import ContactAudio, Over, Passed
from server.ingest.connect.cursor import Claim, Cursor, snapshot
from server.ingest.connect.fragments import StreamFailed
from server.ingest.connect.kvs import KinesisVideo, Media, after, from_time
from server.ingest.connect.sides import Sides
from server.ingest.connect.timeline import SAMPLES_PER_MS, Placed
from server.metrics import Metrics
from server.wire.errors import BadAudio, BadRequest, CuelineError, Unavailable
from server.wire.ids import AgentId

log = logging.getLogger(__name__)

START_MARGIN_MS = 1_000
"""Streaming may begin a little before the instant that Connect names; what is not the contact's is left out."""
BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 2.0
MIN_BETWEEN_CALLS_S = 0.2
"""`GetMedia` takes five calls a second and stream."""
HOPELESS_BACKOFF_S = 10.0
"""What will not get better by itself, a missing right say, is tried again slowly: an operator may be at it."""
ERROR_NOT_FOUND = 4000
"""`GetMedia`'s error id for a fragment that is not there (any more)."""


class Quiet(Unavailable):
    """The stream is there and says nothing."""


class ContactConsumer:
    """Reads one contact.

    Args:
        cursor: Where its reading stands; saved as it goes on.
        claim: The cursor's file, held by us.
        kinesis: Where the audio is.
        sides: Where it goes.
        settings: Limits.
        metrics: Counts.
        jitter: A random number of [0, 1) for each back-off.
    """

    def __init__(
        self,
        cursor: Cursor,
        claim: Claim,
        kinesis: KinesisVideo,
        sides: Sides,
        settings: ConnectSettings,
        metrics: Metrics,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._cursor = cursor
        self._claim = claim
        self._kinesis = kinesis
        self._sides = sides
        self._sides.agent_id = cursor.agent_id
        self._limits = settings
        self._metrics = metrics
        self._jitter = jitter
        self._failures = 0
        self._audio_s = 0.0  # when the last audio came, or could not have come
        self._sent_s = 0.0
        self._is_drained = False
        self._is_over = False
        self._timer: asyncio.Timeout | None = None
        self._dirty = asyncio.Event()

    def end(self) -> None:
        """The contact is over: read what is still on the way, then end the call."""
        self._cursor.is_ending = True
        self._dirty.set()
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(self._now_s() + self._limits.drain_s)

    async def assign(self, agent_id: AgentId) -> None:
        """An agent took the contact."""
        self._cursor.agent_id = agent_id
        self._dirty.set()
        with contextlib.suppress(CuelineError):  # a broken side says it when it is opened anew
            await self._sides.assign(agent_id)

    async def run(self) -> None:
        """Read it to its end. Cancelled, it leaves everything to whoever claims the contact next."""
        saver = asyncio.create_task(self._save(), name="connect-cursor")
        self._audio_s = self._now_s()
        try:
            while not self._is_over:
                started_s = self._now_s()
                try:
                    await self._read()
                except CuelineError as error:
                    await self._recover(error, started_s)
            self._cursor.is_over = True
        finally:
            saver.cancel()
            await asyncio.gather(saver, return_exceptions=True)
            await self._sides.close()
            await asyncio.to_thread(self._claim.save, snapshot(self._cursor))

    async def _recover(self, error: CuelineError, started_s: float) -> None:
        """Count it, keep what still stands, and wait as long as the error asks for."""
        self._failures += 1
        self._metrics.kvs_reconnects.labels(type(error).__name__.lower()).inc()
        log.warning("a contact's stream broke", extra={"cause": error.message, "failures": self._failures})
        await self._sides.drop_broken()
        is_hopeless = not error.retryable and not isinstance(error, BadAudio)
        if not is_hopeless and not isinstance(error, Quiet) and not self._cursor.is_ending:
            self._audio_s = self._now_s()  # nobody can say that there was no audio
        is_lost = is_hopeless and self._cursor.is_ending  # nobody waits for it any more
        if is_lost or self._now_s() - self._audio_s > self._limits.abandon_s:
            log.error("a contact is given up: it cannot be read, or its end was missed", extra={"cause": error.message})
            with contextlib.suppress(CuelineError):
                await self._sides.stop()
            self._is_over = True
            return
        if self._now_s() - self._sent_s >= self._limits.stall_s:
            with contextlib.suppress(CuelineError):
                await self._sides.keep_alive()
        cap_s = HOPELESS_BACKOFF_S if is_hopeless else min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(self._failures, 8))
        await asyncio.sleep(max(self._jitter() * cap_s, MIN_BETWEEN_CALLS_S - (self._now_s() - started_s)))

    async def _read(self) -> None:
        """One `GetMedia` call, from where the server is to the contact's end or the first trouble."""
        cursor, contact = self._cursor, self._cursor.contact
        self._is_drained = False
        for role, position in cursor.starts.items():
            if role not in self._sides.roles:
                await self._sides.open(role, position)
        mark = cursor.before(self._sides.next())
        audio = ContactAudio(
            contact.contact_id,
            mark,
            zero_ms=cursor.zero_ms,
            start_number=contact.start_fragment,
            max_skew_ms=self._limits.max_skew_ms,
        )
        start = after(mark.token) if mark is not None else from_time(contact.start_ms - START_MARGIN_MS)
        try:
            async with self._kinesis.media(contact.stream_arn, start) as media:
                while not self._is_drained:
                    await self._take(await self._next(media), audio)
        except BadRequest as error:
            if mark is None or isinstance(error, BadAudio):
                raise
            # A token that the stream does not know any more: its fragment is older than the retention.
            cursor.marks.remove(mark)
            raise Unavailable("the continuation token is not valid any more") from error
        finally:
            self._metrics.kvs_late_seconds.inc(audio.num_late / SAMPLES_PER_MS / 1000)
        await self._sides.stop()
        self._is_over = True

    async def _next(self, media: Media) -> bytes:
        """Next bytes; none when the contact is over and everything of it was read.

        Raises:
            Quiet: Nothing came for too long, or the body is over and the contact is not: connect anew.
        """
        data: bytes | None = None
        try:
            # One timer rather than tasks: this runs for every block of every call.
            async with asyncio.timeout(
                self._limits.drain_s if self._cursor.is_ending else self._limits.stall_s
            ) as self._timer:
                data = await media.read()
        except TimeoutError:
            pass
        finally:
            self._timer = None
        if data:
            return data
        # Either it is quiet, or the body is over because the stream stopped; the contact event decides, and a
        # stream that stays away for long decides in its stead.
        has_stopped = data is not None and self._now_s() - self._audio_s > self._limits.stream_end_s
        if not self._cursor.is_ending and not has_stopped:
            raise Quiet("nothing came from the stream")
        self._is_drained = True
        return b""

    async def _take(self, data: bytes, audio: ContactAudio) -> None:
        for event in audio.feed(data):
            match event:
                case Placed():
                    if event.role not in self._sides.roles:
                        self._cursor.starts.setdefault(event.role, event.position)
                    if await self._sides.send(event):  # what is read again says nothing new of the stream
                        self._note_audio(event, audio)
                case Passed(mark, behind_ms):
                    self._cursor.passed(mark, self._sides.stored_ms())
                    self._dirty.set()
                    if behind_ms is not None:
                        self._metrics.kvs_behind.observe(behind_ms / 1000)
                case Over():
                    self._is_drained = True
                    return
                case StreamFailed(code, error_id):
                    if error_id == ERROR_NOT_FOUND:
                        self._cursor.marks.clear()
                    raise Unavailable(f"GetMedia ended with error {error_id} {code}".rstrip())

    def _note_audio(self, placed: Placed, audio: ContactAudio) -> None:
        self._cursor.zero_ms = audio.zero_ms
        if placed.is_filled:
            self._metrics.kvs_filled_seconds.inc(len(placed.pcm) / 2 / SAMPLES_PER_MS / 1000)
        else:
            self._failures = 0
            self._audio_s = self._sent_s = self._now_s()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def _save(self) -> None:
        """Keep the file close behind; the newest state wins, so a slow disk never holds audio up."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._claim.save, snapshot(self._cursor))
