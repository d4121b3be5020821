"""The socket that all adapters share.

    handshake → greeted or 403 · frames → effects → sources of a call · lost socket → the call waits for its return

The call may live in another process, or move to one: its sources are carried there (`carried_source`), and the peer
learns nothing of it. A process that leaves goes on carrying until its peers hang up.

Source: DESIGN 14; OPERATIONS, "contact event decides; stream end only as fallback".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence

from server.auth.origin import OriginPolicy
from server.config.settings import IngestSettings
from server.ingest.adapters.contract import Adapter, Audio, Begin, Close, Effect, End, Handshake, Pause, Reply, Session
from server.ingest.audio import MAX_FRAME_BYTES
from server.ingest.carried_source import Announced, CarriedSource, Way
from server.ingest.door import Door
from server.ingest.idle import IdleLimit, Silent
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
from server.wire.errors import BadAudio, BadMessage, Conflict, CuelineError, Forbidden, TooLarge
from server.wire.ids import ConversationId, TenantId

log = logging.getLogger(__name__)

MAX_BAD_FRAMES = 20
"""A peer that is wrong so often in a row does not speak this protocol; it is cut off."""
MAX_TEXT_CHARS = 96 * 1024
"""Audio in base64 and a little around it."""

SEND_AWAY_S = 5.0
"""A process that has no more time gives the last words so long to be safe."""

CallKey = tuple[TenantId, ConversationId]


class _Over(Exception):
    """This socket is done with."""


class AdapterEndpoint:
    """ASGI endpoint of one adapter.

    Args:
        adapter: Its protocol.
        way: Carries its sources.
        door: Knows who may bring which call in.
        origins: Which web pages may connect.
        settings: Limits.
    """

    def __init__(self, adapter: Adapter, way: Way, door: Door, origins: OriginPolicy, settings: IngestSettings) -> None:
        self.adapter = adapter
        self.settings = settings
        self.metrics = way.metrics
        self._way = way
        self._door = door
        self._origins = origins
        self._peers: set[_Peer] = set()
        self._empty = asyncio.Event()

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
            if not self._peers:
                self._empty.set()

    async def stop(self) -> None:
        """Alone: send every peer away and hand its last words on. Among others: carry its call on, see `carry`."""
        for peer in list(self._peers):
            if self._way.relay.is_possible:
                peer.move(is_leaving=True)
            else:
                await peer.end("shutdown")
                await peer.socket.close(CLOSE_GOING_AWAY, "shutting down")

    async def carry(self) -> None:
        """Return once the last peer has hung up: until then its words go to its call's next owner."""
        while self._peers:
            self._empty.clear()
            await self._empty.wait()

    async def send_away(self) -> None:
        """No longer carry what still is there; its calls wait for it to come back, to any other process."""
        await asyncio.gather(*(peer.send_away() for peer in list(self._peers)))

    def move(self, tenant_id: TenantId, conversation_id: ConversationId) -> None:
        """A call is another process's by now: its sources go there."""
        for peer in self._peers:
            if peer.key == (tenant_id, conversation_id):
                peer.move()

    async def _greet(self, handshake: Handshake) -> Session:
        if not self._origins.allows(handshake.headers.get("origin"), handshake.headers.get("host")):
            raise Forbidden("pages of this origin may not connect", field="Origin")
        return await self.adapter.greet(handshake)

    # -- what a peer needs of its endpoint --------------------------------------------------------------------------

    async def open(self, begin: Begin, on_failed: Callable[[CuelineError], None]) -> list[CarriedSource]:
        """A call's sources, not opened."""
        identity = begin.identity
        agent_id = await self._door.enter(identity, begin.agent_id, begin.conversation_id)
        key = (identity.tenant_id, begin.conversation_id)
        announced = (
            Announced(*key, audio_format, agent_id, begin.language, begin.customer_id) for audio_format in begin.formats
        )
        return [CarriedSource(self._way, one, on_failed) for one in announced]


async def carry_on(endpoints: Sequence[AdapterEndpoint], limit_s: float) -> None:
    """For a process that leaves: carry what has arrived here until its peers hang up, then send away who is left."""
    try:
        async with asyncio.timeout(limit_s):
            await asyncio.gather(*(endpoint.carry() for endpoint in endpoints))
    except TimeoutError:
        log.warning("telephony sockets are closed in the midst of their calls: this process was to leave")
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SEND_AWAY_S):
                await asyncio.gather(*(endpoint.send_away() for endpoint in endpoints))


class _Peer:
    """One socket, its session, and the sources it feeds."""

    def __init__(self, endpoint: AdapterEndpoint, socket: Socket, session: Session) -> None:
        self.key: CallKey | None = None
        self.socket = socket
        self._endpoint = endpoint
        self._session = session
        self._sources: list[CarriedSource] = []
        self._bad_frames = 0
        self._giving_up: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Work frames until the protocol, the peer or a limit ends it."""
        settings = self._endpoint.settings
        try:
            async with IdleLimit() as idle:
                while True:
                    limit_s = settings.idle_timeout_s if self.key is not None else settings.start_timeout_s
                    await self._work(await idle.wait(self.socket.receive(), limit_s))
        except Silent:
            with contextlib.suppress(_Over):
                await self._refuse(BadMessage("nothing came within the time limit"))
                await self.socket.close(CLOSE_TRY_AGAIN, "idle")
        except _Over:
            pass
        finally:
            await self._lose()

    def move(self, *, is_leaving: bool = False) -> None:
        """Its call goes on in another process; `is_leaving`: as all do, for this one ends."""
        for source in self._sources:
            source.move(is_leaving=is_leaving)

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
                    await self._sources[index].feed(frame)
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
        if self.key is not None:
            raise Conflict("this socket has begun a call already")
        name = self._endpoint.adapter.name
        try:
            sources = await self._endpoint.open(begin, self._on_failed)
            self.key = (begin.identity.tenant_id, begin.conversation_id)
            for source in sources:
                await source.open()
                self._sources.append(source)
                self._endpoint.metrics.ingest_sources.labels(name).inc()
        except CuelineError as error:
            await self._refuse(error)
            await self.end("no_recogniser")
            await self._close_after(error)
            raise _Over from error
        log.info("audio source connected", extra={"source": name, "roles": [f.roles for f in begin.formats]})

    def _on_failed(self, error: CuelineError) -> None:
        """A source is not carried any further: the peer is told, and may come back."""
        if self._giving_up is None:
            self._giving_up = asyncio.create_task(self._give_up(error), name="give-up-peer")

    async def _give_up(self, error: CuelineError) -> None:
        with contextlib.suppress(_Over):
            await self._refuse(error)
        await self._close_after(error)

    async def _close_after(self, error: CuelineError) -> None:
        await self.socket.close(CLOSE_TRY_AGAIN if error.retryable else CLOSE_POLICY, error.code)

    async def end(self, reason: str) -> None:
        """The call is over: hand its last words on. Idempotent."""
        await self._leave(call_ended=True, reason=reason)

    async def send_away(self) -> None:
        """Close its socket; the call waits for it to come back."""
        await self._leave(call_ended=False)
        await self.socket.close(CLOSE_GOING_AWAY, "shutting down")

    async def _lose(self) -> None:
        """The socket is gone without the call's end: the call waits a while for it to come back."""
        await self._leave(call_ended=False)
        if self._giving_up is not None:
            await asyncio.wait([self._giving_up])

    async def _leave(self, *, call_ended: bool, reason: str = "") -> None:
        sources, self._sources = self._sources, []
        self._endpoint.metrics.ingest_sources.labels(self._endpoint.adapter.name).dec(len(sources))
        if not sources:
            return
        # The last one alone ends the call: another that is still looking for the call's owner would open it anew.
        *others, last = sources
        left = await asyncio.gather(*(source.leave(call_ended=False) for source in others), return_exceptions=True)
        await last.leave(call_ended=call_ended, reason=reason)
        for failure in left:
            if failure is not None:
                raise failure

    async def _refuse(self, error: CuelineError) -> None:
        self._endpoint.metrics.ingest_errors.labels(self._endpoint.adapter.name, error.code).inc()
        try:
            await self._carry_out(self._session.refuse(error))
        except _Over:
            await self.end("refused")
            raise
