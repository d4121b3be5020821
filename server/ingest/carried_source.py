"""One source of a telephony system's call, carried to wherever the call lives, as long as the system holds its socket.

    frame ─▶ tape ─┬─▶ leg: this process, or the call's owner ─▶ acks ─▶ tape forgets
                   └── owner died, drained or lost the call ─▶ find the next one ─▶ from what is not stored on ─▶ leg

Telephony systems follow no redirect and send nothing twice, so this end keeps what is not stored yet, and sends it
again. Alone there is no other process: nothing is kept. Source: DESIGN 14, the rules of `resume_from_ms` and `ack`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from server.ingest.audio import AudioFormat
from server.ingest.audio_source import AudioSource
from server.ingest.contract import Desk
from server.ingest.legs import Leg, LegLost, LocalLeg
from server.ingest.relay import Relay
from server.log.leases import Elsewhere
from server.metrics import Metrics
from server.speech.contract import Recogniser
from server.speech.recovery.clock import SampleClock
from server.speech.recovery.tape import Tape
from server.wire.errors import CuelineError
from server.wire.ids import AgentId, ConversationId, TenantId
from server.wire.ingest import LANGUAGE_PATTERN, AudioStart

log = logging.getLogger(__name__)

KEPT_S = 30
"""Audio that is kept until it is stored; the oldest of more is given up."""
SPARE_S = 10
"""More is kept while an owner that was promised all of it is being sent what it lacks."""
PATIENCE_S = 30.0
"""As long as everything is still kept, the call's owner is looked for."""
LEAVING_PATIENCE_S = 10.0
"""Of a process that leaves: the others adopt its calls within moments, unless all of them leave."""
REFUSED_PATIENCE_S = 5.0
"""An owner that refuses may do so for its half-open former socket, or for a secret it does not know yet: no longer."""
PAUSE_S, MAX_PAUSE_S = 0.05, 0.5
"""Between two attempts, growing: a lease runs out within two seconds, and the audio has to be taken up within three."""
STEADY_S = 5.0
"""A leg that lived so long, or stored something, was none of a series of failures."""
CATCH_UP_MS = 100
"""A frame of what is sent again."""

_LANGUAGE = re.compile(LANGUAGE_PATTERN)


@dataclass(frozen=True, slots=True)
class Way:
    """What carries the sources of a process.

    Attributes:
        desk: Opens calls here, or says who has them.
        recogniser: Opens speech streams.
        relay: Reaches the others.
        metrics: Counts.
    """

    desk: Desk
    recogniser: Recogniser
    relay: Relay
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Announced:
    """What a source is, as its call's owner is told.

    Attributes:
        tenant_id: Owner.
        conversation_id: The call.
        audio_format: Of its frames.
        agent_id: Whose call it is.
        language: Expected language.
        customer_id: The telephony side's name for the customer.
    """

    tenant_id: TenantId
    conversation_id: ConversationId
    audio_format: AudioFormat
    agent_id: AgentId | None = None
    language: str | None = None
    customer_id: str | None = None

    def audio_start(self, start_ms: int, lost_from_ms: int | None, *, is_live: bool) -> AudioStart:
        """As the start of a socket to the call's owner."""
        language = self.language
        return AudioStart(
            conversation_id=self.conversation_id,
            encoding=self.audio_format.encoding,
            sample_rate_hz=self.audio_format.sample_rate_hz,
            layout="stereo" if len(self.audio_format.roles) == 2 else "mono",
            roles=list(self.audio_format.roles),
            agent_id=self.agent_id,
            customer_id=self.customer_id,
            tenant_id=self.tenant_id,
            language=language if language is not None and _LANGUAGE.match(language) else None,
            start_ms=start_ms,
            lost_from_ms=lost_from_ms,
            is_live=is_live,
        )


class CarriedSource:
    """See above. Event-loop thread only; one socket feeds it.

    Args:
        way: What carries it.
        announced: What it is.
        on_failed: Told once that its call's owner is not to be found, or wants none of it.
    """

    def __init__(self, way: Way, announced: Announced, on_failed: Callable[[CuelineError], None]) -> None:
        self.announced = announced
        self._way = way
        self._on_failed = on_failed
        self._format = announced.audio_format
        self._leg: Leg | None = None
        self._clock: SampleClock | None = None
        self._tape = Tape(self._format.sample_rate_hz, self._format.step_bytes)
        self._grid = SampleClock(0, self._format.sample_rate_hz)
        self._stored = 0
        self._moving: asyncio.Task[None] | None = None
        self._is_stale = False
        self._is_promised = False
        self._is_over = False
        self._led_since_s: float | None = None
        self._looking_since_s = 0.0
        self._stored_before = 0
        self._pause_s = PAUSE_S
        self._patience_s = PATIENCE_S
        self._dropping: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Find the call: here if it can be, otherwise its owner is looked for while the audio is kept.

        Raises:
            Busy: This side is being streamed by another source.
            CuelineError: There is no room for it here.
        """
        try:
            self._take(await self._open_here())
        except Elsewhere:
            if not self._way.relay.is_possible:
                raise
            self.move()

    async def feed(self, frame: bytes) -> None:
        """Take one frame; waits while the call's owner is behind.

        Raises:
            BadAudio: The frame does not fit the format; nothing of it was taken.
        """
        self._format.check(frame)
        self._tape.append(frame)
        if not self._way.relay.is_possible:
            self._tape.forget(self._tape.end)
        else:
            kept_s = KEPT_S + (SPARE_S if self._is_promised else 0)
            oldest = self._tape.end - kept_s * self._format.sample_rate_hz
            self._tape.forget(self._grid.aligned(oldest))  # an owner is told in milliseconds where it begins
        if (leg := self._leg) is not None:
            await self._through(leg, leg.feed(frame))

    async def finalize(self) -> None:
        """The audio pauses."""
        if (leg := self._leg) is not None:
            await self._through(leg, leg.finalize())

    def move(self, *, is_leaving: bool = False) -> None:
        """The call is, or will be, another process's: find it, and go on with what it does not have.

        Args:
            is_leaving: This process takes no call any more.
        """
        if self._is_over:
            return
        if is_leaving:
            self._patience_s = LEAVING_PATIENCE_S
        self._is_stale = True
        leg, self._leg = self._leg, None
        if leg is not None:
            self._own(leg.drop(), "drop-leg")
        if self._moving is None or self._moving.done():
            self._moving = asyncio.create_task(self._find(), name="find-call")

    async def leave(self, *, call_ended: bool = True, reason: str = "stopped") -> None:
        """The source is over: returns when its last words are safe, or nobody is found to take them. Idempotent.

        Args:
            call_ended: With its last source the call ends; otherwise it waits for another one.
            reason: Why, for the call's end.
        """
        if self._is_over:
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (leg := await self._settled()) is not None:
                    try:
                        await leg.stop(call_ended=call_ended, reason=reason)
                        self._leg = None
                        break
                    except LegLost:
                        if not self._way.relay.is_possible:
                            raise
                        self.move()
        except TimeoutError:
            log.error("the last words of a source may be lost: its call was not found in time")
        finally:
            self._is_over, leg, self._leg = True, self._leg, None
            if self._moving is not None:
                self._moving.cancel()
                await asyncio.gather(self._moving, return_exceptions=True)
            if leg is not None:
                self._own(leg.drop(), "drop-leg")
            await asyncio.gather(*self._dropping, return_exceptions=True)

    # Inside

    async def _settled(self) -> Leg | None:
        """The leg, once there is one; None: there will be none."""
        if self._moving is not None:
            await asyncio.wait([self._moving])
        return self._leg

    async def _through(self, leg: Leg, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except LegLost:
            if leg is self._leg:
                self.move()

    async def _find(self) -> None:
        """Try until a leg has caught up with what is said now."""
        loop = asyncio.get_running_loop()
        has_led = self._led_since_s is None or loop.time() - self._led_since_s >= STEADY_S
        if has_led or self._stored > self._stored_before:
            self._looking_since_s, self._pause_s = loop.time(), PAUSE_S
        else:  # an owner that takes a source and drops it at once is not to be had, and not to be hammered at
            await self._pause()
        self._stored_before = self._stored
        while True:
            self._is_stale, self._is_promised, leg = False, True, None
            try:
                leg = await self._connect()
                await self._catch_up(leg)
                self._led_since_s = loop.time()
                self._way.metrics.relay_moves.inc()
                return
            except CuelineError as error:
                failure, patience_s = error, self._patience_s if error.retryable else REFUSED_PATIENCE_S
            except Exception:
                log.exception("a source cannot be carried on")
                failure, patience_s = CuelineError("internal error"), 0.0
            finally:
                self._is_promised = False
                if leg is not None and leg is not self._leg:
                    self._own(leg.drop(), "drop-leg")
            if loop.time() - self._looking_since_s >= patience_s:
                log.warning("the owner of a relayed call is not to be had", extra={"reason": failure.code})
                self._on_failed(failure)
                return
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self._pause_s * random.uniform(0.8, 1.0))
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    async def _connect(self) -> Leg:
        try:
            return await self._open_here()
        except Elsewhere as elsewhere:
            is_live = self._clock is None
            start = self.announced.audio_start(self._start_ms, self._lost_from_ms, is_live=is_live)
            return await self._way.relay.open(elsewhere, start, self._on_told)

    @property
    def _start_ms(self) -> int:
        """Audio time before which it has nothing any more."""
        return self._clock.ms_of(self._tape.start) if self._clock is not None else 0

    @property
    def _lost_from_ms(self) -> int | None:
        """Audio time from which on it has given up what nobody stored; None: it has all of it."""
        if self._clock is None or self._stored >= self._tape.start:
            return None
        return self._clock.ms_of(self._stored)

    async def _open_here(self) -> LocalLeg:
        announced, way = self.announced, self._way
        call = await way.desk.open(
            announced.tenant_id,
            announced.conversation_id,
            agent_id=announced.agent_id,
            language=announced.language,
            roles=self._format.roles,
            customer_id=announced.customer_id,
        )
        source = AudioSource(
            announced.tenant_id,
            announced.conversation_id,
            announced.language or "en",
            self._format,
            call,
            way.recogniser,
            start_ms=self._start_ms,
            lost_from_ms=self._lost_from_ms,
            is_live=self._clock is None,
        )
        try:
            await source.open()
        except BaseException:
            await source.close()
            if self._clock is None:
                await call.stop(reason="no_recogniser")
            else:
                call.lost()
            raise
        return LocalLeg(source, way.metrics, self._on_told if way.relay.is_possible else None)

    async def _catch_up(self, leg: Leg) -> None:
        """Send what the leg does not have, up to the newest sample."""
        if self._clock is None:
            self._clock = SampleClock(leg.start_ms, self._format.sample_rate_hz)
        position = min(self._clock.position_of(leg.start_ms), self._tape.end)
        self._stored = max(self._stored, self._tape.start)  # what is missing before is told by now
        step = CATCH_UP_MS * self._format.sample_rate_hz // 1000
        while position < self._tape.end:
            if self._is_stale:
                raise LegLost("the call moved on")
            if position < self._tape.start:
                raise LegLost("it was given up before it was sent")
            frame = self._tape.read(position, step)
            position += len(frame) // self._format.step_bytes
            await leg.feed(frame)
        if self._is_stale:
            raise LegLost("the call moved on")
        self._leg = leg

    def _take(self, leg: Leg) -> None:
        self._clock = SampleClock(leg.start_ms, self._format.sample_rate_hz)
        self._leg = leg

    def _on_told(self) -> None:
        """By a leg, of this moment or of a former one."""
        if self._leg is not None and self._clock is not None:
            self._stored = max(self._stored, self._clock.position_of(self._leg.stored_ms))
            self._tape.forget(self._stored)
            if self._leg.is_broken:
                self.move()

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        async def quietly() -> None:
            with contextlib.suppress(CuelineError):
                await work

        task = asyncio.create_task(quietly(), name=name)
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)
