"""The other end of `/v1/ingest/audio`: for processes that bring audio in from elsewhere.

    open → resume_from_ms;  send(pcm) …;  stored_ms grows as words are safe;  stop

What breaks, breaks loudly at the next call; whoever uses it opens a new one and goes on from `resume_from_ms`.
Source: DESIGN 14.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import websockets
from websockets.asyncio.client import ClientConnection, connect

from server.wire.errors import Conflict, CuelineError, Unavailable
from server.wire.ingest import Assign, AudioAck, AudioStart, ErrorMessage, KeepAlive, Started, Stop, Stopped

HANDSHAKE_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 30.0
MAX_UNREAD_MESSAGES = 64

_decoder = msgspec.json.Decoder(Started | AudioAck | Stopped | ErrorMessage)
_encoder = msgspec.json.Encoder()


class Refused(Conflict):
    """The server refused it for good; its own words."""

    code = "refused"


class AudioClient:
    """One audio source of one call, over one socket.

    Args:
        url: `ws://host:port` of the server, without a path.
        start: What it announces.
        token: Bearer token; None where the server is anonymous.
        on_stored: Told each time more audio is safe, and when the connection ends.
        patience_s: What the server may take to answer the start.
        headers: Further ones of the handshake.
        options: Of `websockets`' connection.
    """

    def __init__(
        self,
        url: str,
        start: AudioStart,
        *,
        token: str | None = None,
        on_stored: Callable[[], None] = lambda: None,
        patience_s: float = HANDSHAKE_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._url = url
        self._start = start
        self._headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        self._on_stored = on_stored
        self._patience_s = patience_s
        self._options = options
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._failure: CuelineError | None = None
        self.resume_from_ms = 0
        """Audio time at which the server goes on; set by `open`."""
        self.stored_ms = 0
        """Everything said before is safe."""

    @property
    def is_broken(self) -> bool:
        """It is of no use any more: open another one."""
        return self._failure is not None or self._socket is None

    async def open(self) -> None:
        """Connect and start.

        Raises:
            Unavailable: Nobody answers, or the server has no room now: try again.
            Refused: It does not want this source.
        """
        try:
            async with asyncio.timeout(self._patience_s):
                self._socket = await connect(
                    f"{self._url}/v1/ingest/audio",
                    additional_headers=self._headers,
                    compression=None,
                    max_queue=MAX_UNREAD_MESSAGES,
                    open_timeout=None,
                    **self._options,
                )
                await self._socket.send(_encoder.encode(self._start).decode())
                answer = _decoder.decode(await self._socket.recv())
        except (OSError, TimeoutError, websockets.WebSocketException, msgspec.DecodeError) as error:
            await self.close()
            raise Unavailable(f"the server at {self._url} cannot be reached: {type(error).__name__}") from error
        if isinstance(answer, ErrorMessage):
            await self.close()
            raise _error(answer)
        if isinstance(answer, Started):
            self.resume_from_ms = self.stored_ms = answer.resume_from_ms
        self._reader = asyncio.create_task(self._read(self._socket), name="audio-client")

    async def send(self, pcm: bytes) -> None:
        """Send samples; waits while the server is behind.

        Raises:
            Unavailable: The connection is gone.
            Refused: The server ended it for good.
        """
        await self._write(pcm)

    async def keep_alive(self) -> None:
        """Say that the call lives though it has no audio now. Raises as `send`."""
        await self._write(_encoder.encode(KeepAlive()).decode())

    async def assign(self, agent_id: str) -> None:
        """Say that an agent took the call. Raises as `send`."""
        await self._write(_encoder.encode(Assign(agent_id)).decode())

    async def stop(self, *, call_ended: bool = True, limit_s: float = STOP_TIMEOUT_S) -> None:
        """End the source; returns when its last words are stored, within a time.

        Raises:
            Unavailable: They are not: open a new one, send again what was not stored.
        """
        await self._write(_encoder.encode(Stop(call_ended=call_ended)).decode())
        assert self._reader is not None
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.shield(self._reader)
        except TimeoutError:
            raise Unavailable("the server did not say that the last words are stored") from None
        finally:
            failure = self._failure
            await self.close()
        if failure is not None:
            raise failure

    async def close(self) -> None:
        """Leave without a word; the call waits for this source to come back. Idempotent."""
        reader, self._reader = self._reader, None
        socket, self._socket = self._socket, None
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        if socket is not None:
            with contextlib.suppress(OSError, TimeoutError, websockets.WebSocketException):
                await socket.close()

    async def _write(self, frame: str | bytes) -> None:
        if self._failure is not None:
            raise self._failure
        if self._socket is None:
            raise Unavailable("the source is closed")
        try:
            await self._socket.send(frame)
        except (OSError, websockets.WebSocketException) as error:
            raise self._failure or Unavailable(f"the server at {self._url} broke off") from error

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for frame in socket:
                match _decoder.decode(frame):
                    case AudioAck(stored_ms):
                        self.stored_ms = max(self.stored_ms, stored_ms)
                        self._on_stored()
                    case ErrorMessage() as message:
                        self._failure = _error(message)
                    case Stopped():
                        return
        except (OSError, websockets.WebSocketException, msgspec.DecodeError):
            pass  # told below, as any other end
        self._failure = self._failure or Unavailable(f"the server at {self._url} broke off")
        self._on_stored()


def _error(message: ErrorMessage) -> CuelineError:
    text = f"{message.code}: {message.message}"
    return Unavailable(text, field=message.field) if message.retryable else Refused(text, field=message.field)
