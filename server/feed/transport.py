"""uvicorn's WebSocket protocol, with the two things that plain ASGI cannot say, and a short way in.

1. *Is there room?* ASGI tells back-pressure only by a `send` that does not return, which costs a task and a wake-up
   a message. Here a whole frame, encoded once for all readers, goes to the transport if it has room.
2. *Cut it.* ASGI's close waits until the peer has read what was sent before, which one that never reads will not
   do. Here the close frame is queued at once and the transport is aborted if it cannot be flushed in time.

3. *A message came.* Nearly all are one whole frame. Those are cut out and unmasked here, in a tenth of the time that
   the general parser takes; it gets everything else, a frame at a time.

`uvicorn.Config(ws=DirectProtocol)` puts the connection into `scope["extensions"]`; under any other server the feed
falls back to ASGI messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast
from weakref import WeakKeyDictionary

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Opcode
from websockets.protocol import State

from server.feed.outgoing import frame_header

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform that it is not compiled for
    from websockets.utils import apply_mask

EXTENSION = "cueline.direct"
BATCH_BYTES = 32 * 1024
"""Frames of one turn are written at once from here on, so that the transport's back-pressure is seen in time."""
MAX_WAITING_MESSAGES = 4
"""Messages that the application has not taken yet; from here on nothing is read from the peer. Stopping and starting at
every message, as uvicorn does, costs system calls for each."""
LINGER_S = 5.0
"""How long a closed socket may take to flush and to answer before it is aborted."""


_MASKED = 0x80
_SIMPLE: dict[int, Literal["text", "bytes"]] = {0x80 | Opcode.TEXT: "text", 0x80 | Opcode.BINARY: "bytes"}
"""First bytes of messages of one frame, without reserved bits. Source: RFC 6455 5.2."""


class _Turn:
    """Connections that wrote in this turn of the loop, flushed by one callback: one each was a tenth of a fan-out."""

    def __init__(self) -> None:
        self._connections: list[DirectProtocol] = []

    def add(self, connection: DirectProtocol) -> None:
        if not self._connections:
            connection.loop.call_soon(self._flush)
        self._connections.append(connection)

    def _flush(self) -> None:
        connections, self._connections = self._connections, []
        for connection in connections:
            try:
                connection.write_frames()
            except Exception as error:  # one broken transport must not cost the others their frames
                connection.loop.call_exception_handler(
                    {"message": "a feed connection cannot write", "exception": error}
                )


# No turn keeps its loop alive: a connection does, for as long as it has something to write.
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turn] = WeakKeyDictionary()


def _turn_of(loop: asyncio.AbstractEventLoop) -> _Turn:
    turn = _turns.get(loop)
    if turn is None:
        turn = _turns[loop] = _Turn()
    return turn


class DirectProtocol(WebSocketsSansIOProtocol):
    """One connection. Used from the event loop.

    Attributes:
        on_writable: Called when the transport has room again.
        on_shutdown: Called instead of closing with 1012 when the server shuts down.
    """

    on_writable: Callable[[], None] | None = None
    on_shutdown: Callable[[], None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See uvicorn."""
        super().__init__(*args, **kwargs)
        self._frames: list[bytes] = []
        self._frames_bytes = 0
        self._has_room = True
        self._tail = b""
        self._is_cutting = True
        self._turn = _turn_of(self.loop)

    @property
    def can_write(self) -> bool:
        """The connection is open and its transport has room."""
        return (
            self._has_room
            and self.handshake_complete
            and not (self.close_sent or self.disconnected or self.transport.is_closing())
        )

    def write_frame(self, frame: bytes) -> None:
        """Hand a whole, unmasked data frame to the transport. Only while `can_write`.

        Frames of one turn of the loop leave together: the outputs of an utterance come as seven publications, and a
        system call for each was a sixth of the server's time under load.
        """
        self._frames.append(frame)
        self._frames_bytes += len(frame)
        if self._frames_bytes >= BATCH_BYTES:
            self.write_frames()
        elif len(self._frames) == 1:
            self._turn.add(self)

    def write_frames(self) -> None:
        """Hand over what this turn wrote."""
        if self._frames:
            frames, self._frames, self._frames_bytes = self._frames, [], 0
            if not self.disconnected and not self.transport.is_closing():
                self.transport.write(frames[0] if len(frames) == 1 else b"".join(frames))

    async def send(self, message: ASGISendEvent) -> None:
        """See uvicorn. A message that there is room for leaves with the frames of this turn."""
        if message["type"] == "websocket.send" and self.can_write:
            text = message.get("text")
            body = text.encode() if text is not None else message.get("bytes") or b""
            self.write_frame(frame_header(Opcode.BINARY if text is None else Opcode.TEXT, len(body)) + body)
        else:
            self.write_frames()
            await super().send(message)

    def close_now(self, code: int, reason: str) -> None:
        """Close without waiting for room; `receive` then ends with a disconnect."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self.write_frames()
        try:
            self.conn.send_close(code, reason)
        except InvalidState:
            return  # the peer was faster
        self.stop_keepalive()
        self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_S, self._abort)

    def data_received(self, data: bytes) -> None:
        """See uvicorn."""
        if self._is_cutting and self.conn.state is State.OPEN:
            self._cut(self._tail + data if self._tail else data)
        else:
            # The request comes alone; what comes before it is answered leaves the parser who knows where in a frame.
            self._is_cutting = self._is_cutting and not self.handshake_initiated
            super().data_received(data)

    def _cut(self, data: bytes) -> None:
        """Hand over every whole frame, and keep the beginning of the next one."""
        at, end = 0, len(data)
        while self.conn.state is State.OPEN and end - at >= 2:
            length, start = data[at + 1] & ~_MASKED, at + 6
            if length >= 126:
                start += 2 if length == 126 else 8
                if end < start:
                    break
                length = int.from_bytes(data[at + 2 : start - 4], "big")
            if not data[at + 1] & _MASKED or length > self.config.ws_max_size:
                self._is_cutting = False  # the parser knows what to say of it
                break
            next_at = start + length
            if next_at > end:
                break
            kind = _SIMPLE.get(data[at])
            if kind is None or self.conn.current_size is not None:  # a control frame, or part of a message
                super().data_received(data[at:next_at])
            else:
                self.curr_msg_data_type = kind
                self.frames = [apply_mask(data[start:next_at], data[start - 4 : start])]
                self.send_receive_event_to_app()
            at = next_at
        self._tail = data[at:]
        if self._tail and not (self._is_cutting and self.conn.state is State.OPEN):
            self._is_cutting = False
            data, self._tail = self._tail, b""
            super().data_received(data)

    def send_receive_event_to_app(self) -> None:
        """See uvicorn: hands a message over."""
        was_paused, self.read_paused = self.read_paused, True  # keeps it from pausing
        super().send_receive_event_to_app()
        self.read_paused = was_paused
        if not was_paused and self.queue.qsize() >= MAX_WAITING_MESSAGES:
            self.read_paused = True
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._has_room = False
        super().pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._has_room = True
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    def shutdown(self) -> None:
        """See uvicorn: the server shuts down."""
        if self.on_shutdown is not None and self.handshake_complete and not self.close_sent:
            self.on_shutdown()
        else:
            super().shutdown()

    async def run_asgi(self) -> None:
        """See uvicorn: runs the application for this connection."""
        extensions = cast("dict[str, Any]", self.scope["extensions"])
        extensions[EXTENSION] = {"connection": self}
        await super().run_asgi()
        # uvicorn closes the transport now, which flushes first: a peer that never reads would hold it for ever.
        self.loop.call_later(LINGER_S, self._abort)

    def _abort(self) -> None:
        if not self.disconnected:
            self.transport.abort()
