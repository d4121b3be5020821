"""A telephony source: streams a recording to `/v1/ingest/audio` as a switch would.

Frames leave on an absolute schedule, each when its last sample would have been captured, so a slow moment never
shifts the rest. With `speed=None` they leave as fast as the server acknowledges audio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import websockets
from websockets.asyncio.client import ClientConnection, connect

from server.replay.recording import Recording
from server.wire.errors import CuelineError, Unavailable
from server.wire.ingest import AudioAck, AudioStart, ErrorMessage, Started, Stop, Stopped

FRAME_MS = 20
WINDOW_MS = 20_000
"""Unacknowledged audio a fast source may have on the way: more than the longest utterance, less than the ring."""
HANDSHAKE_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 60.0

_decoder = msgspec.json.Decoder(Started | AudioAck | Stopped | ErrorMessage)
_encoder = msgspec.json.Encoder()


class Refused(CuelineError):
    """The server answered with an error message."""

    code = "refused"


class Source:
    """Streams one recording once.

    Args:
        url: `ws://host:port`, without a path.
        conversation_id: The call.
        recording: What is said.
        agent_id: Whose call; None leaves it to the server.
        tenant_id: Owner; None leaves it to the server.
        token: Bearer token, None in anonymous mode.
        speed: 1.0 for real time, None for as fast as possible.
        seconds: Stream only so much.
    """

    def __init__(
        self,
        url: str,
        conversation_id: str,
        recording: Recording,
        *,
        agent_id: str | None = None,
        tenant_id: str | None = None,
        token: str | None = None,
        speed: float | None = 1.0,
        seconds: float | None = None,
    ) -> None:
        self._url = url
        self._recording = recording
        self._token = token
        self._speed = speed
        self._seconds = seconds
        self._start = AudioStart(
            conversation_id=conversation_id,
            encoding="linear16",
            sample_rate_hz=recording.sample_rate_hz,
            layout="stereo",
            roles=["customer", "agent"],
            agent_id=agent_id,
            tenant_id=tenant_id,
        )
        self._stored_ms = 0
        self._acked = asyncio.Event()
        self.zero_s: float | None = None
        """Monotonic time at which audio time 0 was spoken, set when streaming begins."""

    async def run(self, progress: Callable[[float], None] = lambda _: None) -> None:
        """Stream it and stop.

        Args:
            progress: Told the share sent, 0 to 1.

        Raises:
            Unavailable: Nobody answers at the address, or the socket broke.
            Refused: The server refused; its own words.
        """
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            async with connect(
                f"{self._url}/v1/ingest/audio", additional_headers=headers, compression=None, max_queue=64
            ) as socket:
                await socket.send(_encoder.encode(self._start).decode())
                async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                    self._take(await socket.recv())
                reader = asyncio.create_task(self._read(socket), name="ingest-answers")
                try:
                    await self._stream(socket, reader, progress)
                    await socket.send(_encoder.encode(Stop()).decode())
                    async with asyncio.timeout(STOP_TIMEOUT_S):
                        await reader
                finally:
                    reader.cancel()
                    await asyncio.gather(reader, return_exceptions=True)
        except (OSError, TimeoutError, websockets.InvalidHandshake, websockets.ConnectionClosed) as error:
            raise Unavailable(f"the server at {self._url} cannot be reached or broke off: {error}") from error

    async def _stream(
        self, socket: ClientConnection, reader: asyncio.Task[None], progress: Callable[[float], None]
    ) -> None:
        frames = self._recording.frames(FRAME_MS, self._seconds)
        self.zero_s = time.monotonic()
        for index, frame in enumerate(frames):
            end_ms = (index + 1) * FRAME_MS
            if self._speed is not None:
                delay_s = self.zero_s + end_ms / 1000 / self._speed - time.monotonic()
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
            else:
                await self._window(end_ms, reader)
            if reader.done():
                await reader
                return
            await socket.send(frame)
            if index % 25 == 0 or index + 1 == len(frames):
                progress((index + 1) / len(frames))

    async def _window(self, end_ms: int, reader: asyncio.Task[None]) -> None:
        while end_ms - self._stored_ms > WINDOW_MS and not reader.done():
            self._acked.clear()
            acked = asyncio.ensure_future(self._acked.wait())
            await asyncio.wait({acked, reader}, return_when=asyncio.FIRST_COMPLETED)
            acked.cancel()

    async def _read(self, socket: ClientConnection) -> None:
        async for frame in socket:
            if self._take(frame):
                return

    def _take(self, frame: str | bytes) -> bool:
        """Handle one answer; True after `stopped`."""
        match _decoder.decode(frame):
            case AudioAck(stored_ms):
                self._stored_ms = max(self._stored_ms, stored_ms)
                self._acked.set()
            case ErrorMessage() as error:
                raise Refused(f"{error.code}: {error.message}", field=error.field)
            case Stopped():
                return True
            case Started():
                pass
        return False
