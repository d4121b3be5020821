"""`/v1/ingest/audio`: a telephony source streams one call's audio.

    start → started (at once) · binary PCM → ack · stop → stopped

A socket that breaks parks its source for a grace period; the same start picks it up where the audio stopped. One that
another process relays is not parked: its sender keeps what is not stored, and comes back to any process.
Source: DESIGN 14.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from server.config.settings import IngestSettings
from server.ingest.audio import MAX_FRAME_BYTES, AudioFormat
from server.ingest.audio_source import AudioSource
from server.ingest.contract import Desk
from server.ingest.door import Door
from server.ingest.idle import IdleLimit, send_away_when_idle
from server.ingest.legs import BEAT_S
from server.ingest.relay import Relay
from server.ingest.websocket import (
    CLOSE_GOING_AWAY,
    CLOSE_NORMAL,
    CLOSE_POLICY,
    CLOSE_TOO_BIG,
    CLOSE_TRY_AGAIN,
    Disconnected,
    Receive,
    Scope,
    Send,
    Socket,
)
from server.log.leases import Elsewhere
from server.metrics import Metrics
from server.speech.contract import Recogniser
from server.wire.clock import wall_ms
from server.wire.codec import audio_decoder
from server.wire.errors import BadAudio, BadMessage, Busy, Conflict, CuelineError, TooLarge
from server.wire.ids import AgentId, ConversationId, TenantId
from server.wire.ingest import Assign, AudioAck, AudioStart, KeepAlive, Started, Stop, Stopped

log = logging.getLogger(__name__)

MAX_BAD_FRAMES = 20
"""A source that is wrong so often in a row does not speak this protocol; it is cut off."""
TAKE_OVER_AFTER_S = 2.0
"""A socket silent for so long is presumed half-open: a second start for its roles replaces it."""

RELAYED_IDLE_S = 3 * BEAT_S
"""A process that relays says every moment that it lives; the vendor of one that died may come back by itself."""

SourceKey = tuple[TenantId, ConversationId, tuple[str, ...]]


@dataclass(slots=True)
class _Held:
    """A source and the socket that feeds it, or the timer that will end it while no socket does."""

    source: AudioSource
    socket: Socket | None
    last_frame_s: float
    timer: asyncio.TimerHandle | None = None
    closing: asyncio.Task[None] | None = field(default=None)


class AudioEndpoint:
    """ASGI endpoint.

    Args:
        desk: Opens calls.
        recogniser: Opens speech streams.
        door: Lets sources in.
        settings: Time-outs.
        metrics: Counts.
        relay: Joins sources to the processes that have their calls.
    """

    def __init__(
        self,
        desk: Desk,
        recogniser: Recogniser,
        door: Door,
        settings: IngestSettings,
        metrics: Metrics,
        relay: Relay | None = None,
    ) -> None:
        self._relay = relay or Relay()
        self._desk = desk
        self._recogniser = recogniser
        self._door = door
        self._settings = settings
        self._metrics = metrics
        self._held: dict[SourceKey, _Held] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket until it ends; nothing it does reaches another."""
        socket = Socket(scope, receive, send)
        try:
            await socket.accept()
            if await self._door.knock(socket):
                await self._serve(socket)
        except Disconnected:
            pass

    async def stop(self) -> None:
        """Send every source away with a come-back code and hand its last words on."""
        for key, held in list(self._held.items()):
            if held.socket is not None:
                await held.socket.close(CLOSE_GOING_AWAY, "shutting down")
            await self._end(key, held)
        if self._ending:
            await asyncio.gather(*self._ending)

    def move(self, tenant_id: TenantId, conversation_id: ConversationId) -> None:
        """Close the sources of a call that another process has by now; they come back and are joined to that one."""
        for key, held in list(self._held.items()):
            if key[:2] == (tenant_id, conversation_id):
                socket, held.socket = held.socket, None
                self._forget(key, held)
                self._own(self._let_go(held, socket))

    @staticmethod
    async def _let_go(held: _Held, socket: Socket | None) -> None:
        if held.timer is not None:
            held.timer.cancel()
        if socket is not None:
            await socket.close(CLOSE_GOING_AWAY, "another process has the call")
        await held.source.close()

    async def _serve(self, socket: Socket) -> None:
        try:
            async with asyncio.timeout(self._settings.start_timeout_s):
                start, key, held = await self._start(socket)
        except TimeoutError:
            await socket.send_error(BadMessage("no start within the time limit", field="type"))
            await socket.close(CLOSE_POLICY, "no start")
            return
        except Elsewhere as elsewhere:
            await self._relay.join(socket, elsewhere)
            return
        except CuelineError as error:
            await self._refuse(socket, error)
            await socket.close(CLOSE_TRY_AGAIN if error.retryable else CLOSE_POLICY, error.code)
            return
        log.info("audio source connected", extra={"roles": start.roles, "rate_hz": start.sample_rate_hz})
        try:
            await self._stream(socket, key, held)
        finally:
            # Gone, or failed in a way that nobody foresaw: the source may come back, and if not, its call ends.
            if held.socket is socket and held.closing is None:
                if socket.admitted is None:
                    self._park(key, held)
                else:
                    held.socket = None
                    self._forget(key, held)
                    self._own(self._lose(held))

    async def _start(self, socket: Socket) -> tuple[AudioStart, SourceKey, _Held]:
        """Wait for a valid start and open or resume its source. Wrong frames are answered and forgiven, a few times."""
        for _ in range(MAX_BAD_FRAMES):
            frame = await socket.receive()
            try:
                if isinstance(frame, bytes):
                    raise BadAudio("audio came before start")
                if len(frame) > MAX_FRAME_BYTES:
                    raise TooLarge(f"a frame has at most {MAX_FRAME_BYTES} bytes")
                start = audio_decoder.json(frame)
                if not isinstance(start, AudioStart):
                    raise BadMessage("the first message has to be start", field="type")
                audio_format = AudioFormat.of(start)
                identity, agent_id = await self._door.admit(
                    socket, start.tenant_id, start.agent_id, start.conversation_id
                )
            except CuelineError as error:
                await self._refuse(socket, error)
                continue
            conversation_id = ConversationId(start.conversation_id)
            key: SourceKey = (identity.tenant_id, conversation_id, audio_format.roles)
            held = self._held.get(key)
            if held is not None and socket.admitted is not None:
                await self._replace(key, held)
                held = None
            if held is not None:
                await self._take_over(held, socket, audio_format)
            else:
                held = await self._open(key, socket, start, audio_format, agent_id)
            return start, key, held
        raise BadMessage("too many frames that are no start", field="type")

    async def _open(
        self, key: SourceKey, socket: Socket, start: AudioStart, audio_format: AudioFormat, agent_id: AgentId | None
    ) -> _Held:
        tenant_id, conversation_id, _ = key
        call = await self._desk.open(
            tenant_id,
            conversation_id,
            agent_id=agent_id,
            language=start.language,
            roles=audio_format.roles,
            customer_id=start.customer_id,
        )
        source = AudioSource(
            tenant_id,
            conversation_id,
            start.language or "en",
            audio_format,
            call,
            self._recogniser,
            start_ms=start.start_ms,
            lost_from_ms=start.lost_from_ms,
            is_live=start.is_live,
        )
        held = self._held[key] = _Held(source, socket, asyncio.get_running_loop().time())
        source.on_stored = lambda stored_ms: self._acknowledge(held, stored_ms)
        # Answered first, worked after: a telephony system gives the handshake seconds, then drops the call.
        await socket.send(Started(resume_from_ms=int(source.arrivals.end_ms)))
        try:
            await source.open()
        except BaseException:
            self._held.pop(key, None)
            await source.close()
            await call.stop(reason="no_recogniser")
            raise
        self._metrics.live_streams.inc(len(audio_format.roles))
        self._metrics.ingest_sources.labels("audio").inc()
        return held

    async def _replace(self, key: SourceKey, held: _Held) -> None:
        """Let go of a source whose sender comes back through another process: it knows what it has to send again."""
        self._check_silent(held)
        if held.timer is not None:
            held.timer.cancel()
        old, held.socket = held.socket, None
        self._forget(key, held)
        if old is not None:
            await old.close(CLOSE_POLICY, "replaced by a newer connection")
        await self._lose(held)

    @staticmethod
    def _check_silent(held: _Held) -> None:
        if held.closing is not None:
            raise Busy("this source is ending", field="conversation_id")
        now_s = asyncio.get_running_loop().time()
        if held.socket is not None and now_s - held.last_frame_s < TAKE_OVER_AFTER_S:
            raise Busy("this conversation is being streamed by another socket", field="conversation_id")

    async def _take_over(self, held: _Held, socket: Socket, audio_format: AudioFormat) -> None:
        self._check_silent(held)
        if held.source.audio_format != audio_format:
            raise Conflict("the source comes back in another format", field="encoding")
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
        old, held.socket, held.last_frame_s = held.socket, socket, asyncio.get_running_loop().time()
        if old is not None:
            await old.close(CLOSE_POLICY, "replaced by a newer connection")
        await socket.send(Started(resume_from_ms=int(held.source.arrivals.end_ms)))

    async def _stream(self, socket: Socket, key: SourceKey, held: _Held) -> None:
        """Feed frames to the source until `stop`, the idle limit or too many bad frames in a row."""
        async with send_away_when_idle(socket) as idle:
            await self._feed(socket, key, held, idle)

    async def _feed(self, socket: Socket, key: SourceKey, held: _Held, idle: IdleLimit) -> None:
        loop = asyncio.get_running_loop()
        idle_s = self._settings.idle_timeout_s if socket.admitted is None else RELAYED_IDLE_S
        bad_frames = 0
        while True:
            frame = await idle.wait(socket.receive(), idle_s)
            if held.socket is not socket:
                raise Disconnected
            held.last_frame_s = loop.time()
            try:
                if isinstance(frame, bytes):
                    await held.source.feed(frame, wall_ms())
                elif len(frame) > MAX_FRAME_BYTES:
                    raise TooLarge(f"a frame has at most {MAX_FRAME_BYTES} bytes")
                else:
                    message = audio_decoder.json(frame)
                    match message:
                        case AudioStart():
                            raise Conflict("this socket has started already", field="type")
                        case KeepAlive():
                            await held.source.finalize()
                        case Assign(agent_id):
                            await self._door.assign(socket, key[0], agent_id)
                            held.source.call.assign(AgentId(agent_id))
                        case Stop():
                            await self._finish(socket, key, held, message)
                            return
                bad_frames = 0
            except CuelineError as error:
                bad_frames += 1
                await self._refuse(socket, error)
                if bad_frames >= MAX_BAD_FRAMES:
                    await socket.close(CLOSE_TOO_BIG if isinstance(error, TooLarge) else CLOSE_POLICY, error.code)
                    raise Disconnected from error

    async def _finish(self, socket: Socket, key: SourceKey, held: _Held, message: Stop) -> None:
        held.closing = asyncio.current_task()
        try:
            await held.source.close()
            end_ms = held.source.arrivals.end_ms
            await held.source.call.stop(call_ended=message.call_ended, end_ms=end_ms)
        except CuelineError as error:
            # Its last words are not safe: it may come back and is told from where to send them again.
            await self._refuse(socket, error)
            await socket.close(CLOSE_TRY_AGAIN, error.code)
        else:
            await socket.send(Stopped())
            await socket.close(CLOSE_NORMAL)
        finally:
            self._forget(key, held)

    @staticmethod
    async def _lose(held: _Held) -> None:
        await held.source.close()
        held.source.call.lost(held.source.arrivals.end_ms)

    def _park(self, key: SourceKey, held: _Held) -> None:
        log.info("audio source lost", extra={"grace_s": self._settings.resume_grace_s})
        held.socket = None
        held.timer = asyncio.get_running_loop().call_later(self._settings.resume_grace_s, self._expire, key, held)

    def _expire(self, key: SourceKey, held: _Held) -> None:
        self._own(self._end(key, held))

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="end-lost-source")
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("ending a lost source failed", exc_info=task.exception())

    async def _end(self, key: SourceKey, held: _Held) -> None:
        if held.timer is not None:
            held.timer.cancel()
        if held.closing is not None:
            return
        held.closing = asyncio.current_task()
        held.socket = None
        try:
            await held.source.close()
            await held.source.call.stop(reason="source_lost")
        except CuelineError as error:
            # Not acknowledged, so whoever has the call by now hears it from its source.
            log.warning("the last words of a source are not stored", extra={"reason": error.code})
        finally:
            self._forget(key, held)

    def _forget(self, key: SourceKey, held: _Held) -> None:
        if self._held.pop(key, None) is not None:
            self._metrics.live_streams.dec(len(held.source.audio_format.roles))
            self._metrics.ingest_sources.labels("audio").dec()

    async def _acknowledge(self, held: _Held, stored_ms: int) -> None:
        if held.socket is not None:
            await held.socket.send(AudioAck(stored_ms=stored_ms))

    async def _refuse(self, socket: Socket, error: CuelineError) -> None:
        self._metrics.ingest_errors.labels("audio", error.code).inc()
        await socket.send_error(error)
