"""`/v1/ingest/transcripts`: a source that recognises for itself sends utterances.

    start → started · utterance → ack, once it is in store or outbox · assign · stop → stopped

Utterances are taken as fast as they come; acknowledgements follow in order on their own task, so that a disk that
syncs slowly never slows the guidance down. Source: DESIGN 14.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from server.config.settings import IngestSettings
from server.ingest.contract import Desk, Source
from server.ingest.door import Door
from server.ingest.idle import IdleLimit, send_away_when_idle
from server.ingest.relay import Relay
from server.ingest.websocket import (
    CLOSE_GOING_AWAY,
    CLOSE_INTERNAL,
    CLOSE_NORMAL,
    CLOSE_POLICY,
    CLOSE_TRY_AGAIN,
    Disconnected,
    Receive,
    Scope,
    Send,
    Socket,
)
from server.log.leases import Elsewhere
from server.metrics import Metrics
from server.wire.clock import Stamps, wall_ms
from server.wire.codec import transcript_decoder
from server.wire.errors import BadMessage, Conflict, CuelineError, TooLarge
from server.wire.ids import AgentId, ConversationId, TenantId
from server.wire.ingest import (
    Assign,
    Started,
    Stop,
    Stopped,
    TranscriptClientMessage,
    TranscriptStart,
    UtteranceAck,
    UtteranceIn,
)

MAX_FRAME_BYTES = 1024 * 1024
"""Text with its words; ten thousand words with their times fit."""
MAX_PENDING_ACKS = 1024
"""Utterances taken and not yet stored; beyond, the socket is not read until the disk catches up."""
MAX_BAD_FRAMES = 100

_Pending = tuple[UtteranceAck, Awaitable[None]]


class TranscriptEndpoint:
    """ASGI endpoint.

    Args:
        desk: Opens calls.
        door: Lets sources in.
        settings: Time-outs.
        metrics: Counts.
        relay: Joins sources to the processes that have their calls.
    """

    def __init__(
        self, desk: Desk, door: Door, settings: IngestSettings, metrics: Metrics, relay: Relay | None = None
    ) -> None:
        self._relay = relay or Relay()
        self._desk = desk
        self._door = door
        self._settings = settings
        self._metrics = metrics
        self._sockets: set[Socket] = set()

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
        """Send every source away with a come-back code."""
        for socket in list(self._sockets):
            await socket.close(CLOSE_GOING_AWAY, "shutting down")

    async def _serve(self, socket: Socket) -> None:
        try:
            async with asyncio.timeout(self._settings.start_timeout_s):
                tenant_id, source = await self._start(socket)
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
        pending: asyncio.Queue[_Pending] = asyncio.Queue(MAX_PENDING_ACKS)
        acks = asyncio.create_task(self._acknowledge(socket, pending), name="utterance-acks")
        self._sockets.add(socket)
        is_stopped = False
        try:
            stop = await self._take(socket, tenant_id, source, pending)
            await pending.join()
            await source.stop(call_ended=stop.call_ended)
            is_stopped = True
            await socket.send(Stopped())
            await socket.close(CLOSE_NORMAL)
        except CuelineError as error:
            # Its last words are not safe: it may come back and send them again.
            await self._refuse(socket, error)
            await socket.close(CLOSE_TRY_AGAIN, error.code)
        finally:
            self._sockets.discard(socket)
            acks.cancel()
            await asyncio.gather(acks, return_exceptions=True)
            if not is_stopped:
                source.lost()

    async def _start(self, socket: Socket) -> tuple[TenantId, Source]:
        for _ in range(MAX_BAD_FRAMES):
            try:
                start = self._decode(await socket.receive())
                if not isinstance(start, TranscriptStart):
                    raise BadMessage("the first message has to be start", field="type")
                identity, agent_id = await self._door.admit(
                    socket, start.tenant_id, start.agent_id, start.conversation_id
                )
            except CuelineError as error:
                await self._refuse(socket, error)
                continue
            source = await self._desk.open(
                identity.tenant_id,
                ConversationId(start.conversation_id),
                agent_id=agent_id,
                language=start.language,
                roles=(),
                customer_id=start.customer_id,
            )
            await socket.send(Started(resume_from_ms=source.resume_ms()))
            return identity.tenant_id, source
        raise BadMessage("too many frames that are no start", field="type")

    async def _take(
        self, socket: Socket, tenant_id: TenantId, source: Source, pending: asyncio.Queue[_Pending]
    ) -> Stop:
        async with send_away_when_idle(socket) as idle:
            return await self._take_until_stop(socket, tenant_id, source, pending, idle)

    async def _take_until_stop(
        self, socket: Socket, tenant_id: TenantId, source: Source, pending: asyncio.Queue[_Pending], idle: IdleLimit
    ) -> Stop:
        bad_frames = 0
        while True:
            frame = await idle.wait(socket.receive(), self._settings.idle_timeout_s)
            arrived_ms = wall_ms()
            try:
                match self._decode(frame):
                    case UtteranceIn() as utterance:
                        if utterance.end_ms < utterance.start_ms:
                            raise BadMessage("ends before it starts", field="end_ms")
                        stored = await source.on_utterance(utterance, Stamps(t3=arrived_ms))
                        await pending.put((UtteranceAck(utterance.utterance_id, utterance.revision), stored))
                    case Assign(agent_id):
                        await self._door.assign(socket, tenant_id, agent_id)
                        source.assign(AgentId(agent_id))
                    case Stop() as stop:
                        return stop
                    case TranscriptStart():
                        raise Conflict("this socket has started already", field="type")
                bad_frames = 0
            except CuelineError as error:
                bad_frames += 1
                await self._refuse(socket, error)
                if bad_frames >= MAX_BAD_FRAMES:
                    await socket.close(CLOSE_POLICY, error.code)
                    raise Disconnected from error

    async def _acknowledge(self, socket: Socket, pending: asyncio.Queue[_Pending]) -> None:
        while True:
            ack, stored = await pending.get()
            try:
                await stored
                await socket.send(ack)
            except CuelineError as error:
                # Not stored, so not acknowledged: the source sends it again when it comes back.
                await self._refuse(socket, error)
                await socket.close(CLOSE_INTERNAL, error.code)
            finally:
                pending.task_done()

    @staticmethod
    def _decode(frame: str | bytes) -> TranscriptClientMessage:
        if isinstance(frame, bytes):
            raise BadMessage("a transcript source sends text frames")
        if len(frame) > MAX_FRAME_BYTES:
            raise TooLarge(f"a frame has at most {MAX_FRAME_BYTES} bytes")
        return transcript_decoder.json(frame)

    async def _refuse(self, socket: Socket, error: CuelineError) -> None:
        self._metrics.ingest_errors.labels("transcripts", error.code).inc()
        await socket.send_error(error)
