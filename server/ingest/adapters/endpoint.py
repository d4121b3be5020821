"""The socket that all adapters share.

    handshake → greeted or 403 · frames → effects → sources of a call · lost socket → the call waits for its return

Source: DESIGN 14; OPERATIONS, "contact event decides; stream end only as fallback".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from server.auth.origin import OriginPolicy
from server.config.settings import IngestSettings
from server.ingest.adapters.contract import Adapter, Audio, Begin, Close, Effect, End, Handshake, Pause, Reply, Session
from server.ingest.audio import MAX_FRAME_BYTES
from server.ingest.audio_source import AudioSource
from server.ingest.contract import Desk
from server.ingest.door import Door
from server.ingest.websocket import (
    CLOSE_GOING_AWAY,
    CLOSE_POLICY,
    CLOSE_TRY_AGAIN,
    Disconnected,
    Receive,
    Scope,
    Send,
    Socket,
)
from server.metrics import Metrics
from server.speech.contract import Recogniser
from server.wire.clock import wall_ms
from server.wire.errors import BadAudio, BadMessage, Conflict, CuelineError, Forbidden, TooLarge
from server.wire.ids import ConversationId, TenantId

log = logging.getLogger(__name__)

MAX_BAD_FRAMES = 20
"""A peer that is wrong so often in a row does not speak this protocol; it is cut off."""
MAX_TEXT_CHARS = 96 * 1024
"""Audio in base64 and a little around it."""

CallKey = tuple[TenantId, ConversationId]


class _Over(Exception):
    """This socket is done with."""


class AdapterEndpoint:
    """ASGI endpoint of one adapter.

    Args:
        adapter: Its protocol.
        desk: Opens calls.
        recogniser: Opens speech streams.
        door: Knows who may bring which call in.
        origins: Which web pages may connect.
        settings: Limits.
        metrics: Counts.
    """

    def __init__(
        self,
        adapter: Adapter,
        desk: Desk,
        recogniser: Recogniser,
        door: Door,
        origins: OriginPolicy,
        settings: IngestSettings,
        metrics: Metrics,
    ) -> None:
        self.adapter = adapter
        self._desk = desk
        self._recogniser = recogniser
        self._door = door
        self._origins = origins
        self.settings = settings
        self.metrics = metrics
        self._peers: set[_Peer] = set()
        self._left: dict[CallKey, tuple[float, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket until it ends; nothing it does reaches another."""
        socket = Socket(scope, receive, send)
        try:
            session = await self._greet(Handshake.of(scope))
        except CuelineError as error:
            self.metrics.ingest_errors.labels(self.adapter.name, error.code).inc()
            await receive()
            await send({"type": "websocket.close", "code": CLOSE_POLICY})  # before accept: the peer sees a 403
            return
        peer = _Peer(self, socket, session)
        self._peers.add(peer)
        try:
            await socket.accept()
            await peer.serve()
        except Disconnected:
            pass
        finally:
            self._peers.discard(peer)

    async def stop(self) -> None:
        """Send every peer away and hand its last words on."""
        for peer in list(self._peers):
            await peer.end("shutdown")
            await peer.socket.close(CLOSE_GOING_AWAY, "shutting down")

    async def _greet(self, handshake: Handshake) -> Session:
        if not self._origins.allows(handshake.headers.get("origin"), handshake.headers.get("host")):
            raise Forbidden("pages of this origin may not connect", field="Origin")
        return await self.adapter.greet(handshake)

    # -- what a peer needs of its endpoint --------------------------------------------------------------------------

    async def open(self, begin: Begin) -> list[AudioSource]:
        """Open a call's sources; their streams are opened by `AudioSource.open`."""
        identity = begin.identity
        agent_id = await self._door.enter(identity, begin.agent_id, begin.conversation_id)
        key = (identity.tenant_id, begin.conversation_id)
        start_ms = self._start_ms(key)
        sources: list[AudioSource] = []
        try:
            for audio_format in begin.formats:
                call = await self._desk.open(
                    *key,
                    agent_id=agent_id,
                    language=begin.language,
                    roles=audio_format.roles,
                    customer_id=begin.customer_id,
                )
                language = begin.language or "en"
                sources.append(AudioSource(*key, language, audio_format, call, self._recogniser, start_ms=start_ms))
        except BaseException:
            for source in sources:
                source.call.lost()
            raise
        return sources

    def left(self, key: CallKey, end_ms: float) -> None:
        """Remember where a lost peer's clock stood: if it comes back, the time it was away has passed."""
        now_s = asyncio.get_running_loop().time()
        grace_s = self.settings.resume_grace_s
        self._left = {k: seen for k, seen in self._left.items() if now_s - seen[1] <= grace_s}
        self._left[key] = (end_ms, now_s)

    def _start_ms(self, key: CallKey) -> int:
        end_ms, left_s = self._left.pop(key, (0.0, None))
        if left_s is None:
            return 0
        away_s = asyncio.get_running_loop().time() - left_s
        return round(end_ms + away_s * 1000) if away_s <= self.settings.resume_grace_s else 0


class _Peer:
    """One socket, its session, and the sources it feeds."""

    def __init__(self, endpoint: AdapterEndpoint, socket: Socket, session: Session) -> None:
        self.socket = socket
        self._endpoint = endpoint
        self._session = session
        self._sources: list[AudioSource] = []
        self._key: CallKey | None = None
        self._bad_frames = 0

    async def serve(self) -> None:
        """Work frames until the protocol, the peer or a limit ends it."""
        settings = self._endpoint.settings
        try:
            while True:
                limit_s = settings.idle_timeout_s if self._key is not None else settings.start_timeout_s
                try:
                    async with asyncio.timeout(limit_s):
                        frame = await self.socket.receive()
                except TimeoutError:
                    await self._refuse(BadMessage("nothing came within the time limit"))
                    await self.socket.close(CLOSE_TRY_AGAIN, "idle")
                    return
                await self._work(frame)
        except _Over:
            pass
        finally:
            await self._lose()

    async def _work(self, frame: str | bytes) -> None:
        try:
            if isinstance(frame, str) and len(frame) > MAX_TEXT_CHARS:
                raise TooLarge(f"a text frame has at most {MAX_TEXT_CHARS} characters")
            if isinstance(frame, bytes) and len(frame) > MAX_FRAME_BYTES:
                raise TooLarge(f"an audio frame has at most {MAX_FRAME_BYTES} bytes")
            await self._carry_out(self._session.receive(frame))
            self._bad_frames = 0
        except CuelineError as error:
            self._bad_frames += 1
            await self._refuse(error)
            if self._bad_frames >= MAX_BAD_FRAMES:
                await self.socket.close(CLOSE_POLICY, error.code)
                raise _Over from error

    async def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Audio(index, frame):
                    if index >= len(self._sources):
                        raise BadAudio("audio came before the call began")
                    await self._sources[index].feed(frame, wall_ms())
                case Reply(text):
                    await self.socket.send_text(text)
                case Pause():
                    for source in self._sources:
                        await source.finalize()
                case Begin():
                    await self._begin(effect)
                case End():
                    await self.end("stopped")
                case Close(code, reason):
                    await self.socket.close(code, reason)
                    raise _Over

    async def _begin(self, begin: Begin) -> None:
        if self._key is not None:
            raise Conflict("this socket has begun a call already")
        metrics, name = self._endpoint.metrics, self._endpoint.adapter.name
        try:
            self._sources = await self._endpoint.open(begin)
            self._key = (begin.identity.tenant_id, begin.conversation_id)
            metrics.ingest_sources.labels(name).inc(len(self._sources))
            metrics.live_streams.inc(self._num_roles())
            for source in self._sources:
                await source.open()
        except CuelineError as error:
            await self._refuse(error)
            await self.end("no_recogniser")
            await self.socket.close(CLOSE_TRY_AGAIN if error.retryable else CLOSE_POLICY, error.code)
            raise _Over from error
        log.info(
            "audio source connected", extra={"source": name, "roles": [s.audio_format.roles for s in self._sources]}
        )

    async def end(self, reason: str) -> None:
        """The call is over: hand its last words on. Idempotent."""
        sources = self._forget()
        for source in sources:
            await source.close()
        for source in sources:
            await source.call.stop(reason=reason)

    async def _lose(self) -> None:
        """The socket is gone without the call's end: the call waits a while for it to come back."""
        key = self._key
        sources = self._forget()
        for source in sources:
            if key is not None:
                self._endpoint.left(key, max(source.arrivals.end_ms for source in sources))
            await source.close()
            source.call.lost()

    def _forget(self) -> list[AudioSource]:
        metrics, name = self._endpoint.metrics, self._endpoint.adapter.name
        metrics.ingest_sources.labels(name).dec(len(self._sources))
        metrics.live_streams.dec(self._num_roles())
        sources, self._sources = self._sources, []
        return sources

    def _num_roles(self) -> int:
        return sum(len(source.audio_format.roles) for source in self._sources)

    async def _refuse(self, error: CuelineError) -> None:
        self._endpoint.metrics.ingest_errors.labels(self._endpoint.adapter.name, error.code).inc()
        try:
            await self._carry_out(self._session.refuse(error))
        except _Over:
            await self.end("refused")
            raise
