"""One connection of the speech server: audio and control in, the vendor's messages out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from server.ingest.audio import MAX_FRAME_BYTES, SampleArray
from server.speech.contract import Closed, Recogniser, SpeechCall, SpeechEvent, SpeechStream
from server.speech.deepgram.messages import Metadata, ServerMessage, control_decoder, encode
from server.speech_server.faults import GARBAGE, Faults
from server.speech_server.query import ListenOptions
from server.speech_server.results import ChannelResults
from server.wire.codec import DECODE_ERRORS
from server.wire.errors import BadAudio, CuelineError
from server.wire.ids import ConversationId, TenantId

log = logging.getLogger(__name__)

IDLE_LIMIT_S = 10.0
"""Without audio or `KeepAlive` for so long the vendor closes with 1011 and NET-0001."""
_HOLD_S = 0.02
"""A final waits so long for the end of speech that mostly comes with it."""
_FINALIZE_S = 0.5
"""The final that a `Finalize` asks for comes sooner, if there is one."""
_FRAME_BYTES = MAX_FRAME_BYTES // 4 * 4


class Session:
    """Serves one accepted connection.

    Args:
        socket: The connection.
        options: What the client asked for.
        recogniser: Opens a stream a channel.
        request_id: Its name.
        faults: Of this connection.
    """

    def __init__(
        self,
        socket: ServerConnection,
        options: ListenOptions,
        recogniser: Recogniser,
        request_id: str,
        faults: Faults,
    ) -> None:
        self._socket = socket
        self._options = options
        self._recogniser = recogniser
        self._request_id = request_id
        self._faults = faults
        self._streams: list[SpeechStream] = []
        self._results = [ChannelResults(options, channel, request_id) for channel in range(options.num_outputs)]
        self._answers: set[asyncio.Task[None]] = set()
        self._heard_s = 0.0
        self._digest = hashlib.sha256()
        self._num_messages = 0

    async def run(self) -> None:
        """Serve until `CloseStream`, the end of the connection, or a failure."""
        try:
            for channel in range(self._options.num_outputs):
                self._streams.append(await self._recogniser.open(self._call(channel)))
        except CuelineError as error:
            await self._socket.close(1011, error.code)
            return
        try:
            async with asyncio.TaskGroup() as group:
                listeners = [
                    group.create_task(self._listen(stream, results), name="speech-server-results")
                    for stream, results in zip(self._streams, self._results, strict=True)
                ]
                await self._receive()
                for stream in self._streams:
                    await stream.close()
                await asyncio.gather(*listeners)
            for results in self._results:  # a client that closes at once is answered all the same
                await self._send_all(results.answer_finalize())
            await self._send(self._farewell())
            if self._is_stalled:
                await self._socket.wait_closed()
            await self._socket.close()
        except* ConnectionClosed:
            log.info("client left")
        except* CuelineError as errors:
            log.warning("stream failed", extra={"reason": type(errors.exceptions[0]).__name__})
            bad = any(isinstance(error, BadAudio) for error in errors.exceptions)
            await self._socket.close(1008 if bad else 1011, "DATA-0000" if bad else "NET-0000")
        finally:
            for answer in tuple(self._answers):
                answer.cancel()
            for stream in self._streams:
                await stream.abandon()

    def _call(self, channel: int) -> SpeechCall:
        return SpeechCall(
            tenant_id=TenantId("speech-server"),
            conversation_id=ConversationId(self._request_id),
            speaker=self._options.speaker(channel),
            sample_rate_hz=self._options.audio.sample_rate_hz,
            language=self._options.language,
            keyterms=self._options.keyterms,
        )

    # -- in -----------------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_LIMIT_S):
                    frame = await self._socket.recv()
            except TimeoutError:
                await self._socket.close(1011, "NET-0001: no audio or KeepAlive within the time limit")
                raise ConnectionClosed(None, None) from None
            if isinstance(frame, bytes):
                if not frame:  # the old way of saying CloseStream
                    return
                await self._hear(frame)
            elif await self._obey(frame):
                return

    async def _hear(self, frame: bytes) -> None:
        self._digest.update(frame)
        for first in range(0, len(frame), _FRAME_BYTES):
            channels = self._options.audio.split(frame[first : first + _FRAME_BYTES])
            self._heard_s += len(channels[0]) / self._options.audio.sample_rate_hz
            if self._faults.drop and self._heard_s >= self._faults.drop:
                self._socket.transport.abort()
                raise ConnectionClosed(None, None)
            outputs = channels if self._options.is_multichannel else (_mixed(channels),)
            for stream, samples in zip(self._streams, outputs, strict=True):
                await stream.send(samples.tobytes())

    async def _obey(self, frame: str) -> bool:
        """Do what a text frame says; True for `CloseStream`."""
        try:
            kind = control_decoder.decode(frame).type
        except DECODE_ERRORS:
            raise BadAudio("a text frame that is no control message") from None
        if kind == "Finalize":
            for stream, results in zip(self._streams, self._results, strict=True):
                results.finalize()
                await stream.finalize()
                answer = asyncio.create_task(self._answer(results), name="speech-server-finalize")
                self._answers.add(answer)
                answer.add_done_callback(self._answers.discard)
        return kind == "CloseStream"

    async def _answer(self, results: ChannelResults) -> None:
        """Where nothing was open no final comes, and the client waits for one."""
        await asyncio.sleep(_FINALIZE_S)
        with contextlib.suppress(ConnectionClosed):
            await self._send_all(results.answer_finalize())

    # -- out ----------------------------------------------------------------------------------------------------

    async def _listen(self, stream: SpeechStream, results: ChannelResults) -> None:
        events = aiter(stream.events())
        while True:
            coming = asyncio.ensure_future(anext(events))
            try:
                if results.is_holding:
                    await asyncio.wait((coming,), timeout=_HOLD_S)
                    if not coming.done():
                        await self._send_all(results.release())
                event: SpeechEvent = await coming
            finally:
                coming.cancel()
            if isinstance(event, Closed):
                await self._send_all(results.release())
                if event.error is not None:
                    await self._socket.close(1011, "NET-0000: the recogniser was lost")
                    raise event.error
                return
            await self._send_all(results.take(event))

    async def _send_all(self, messages: Iterable[ServerMessage]) -> None:
        for message in messages:
            await self._send(message)

    async def _send(self, message: ServerMessage) -> None:
        faults = self._faults
        if self._is_stalled:
            return
        if faults.slow:
            await asyncio.sleep(faults.slow)
        self._num_messages += 1
        if faults.garbage and self._num_messages % faults.garbage == 0:
            for frame in GARBAGE:
                await self._socket.send(frame)
        await self._socket.send(encode(message))

    @property
    def _is_stalled(self) -> bool:
        return bool(self._faults.stall) and self._heard_s >= self._faults.stall

    def _farewell(self) -> Metadata:
        return Metadata(
            request_id=self._request_id,
            sha256=self._digest.hexdigest(),
            created=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            duration=round(self._heard_s, 3),
            channels=len(self._options.audio.roles),
        )


def _mixed(channels: tuple[SampleArray, ...]) -> SampleArray:
    if len(channels) == 1:
        return channels[0]
    mixed: SampleArray = np.mean(np.stack(channels), axis=0).astype(np.int16)
    return mixed
