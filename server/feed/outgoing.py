"""What goes out: publications encoded once for all readers, and the answer to a subscription. Pure.

Entry ──▶ Outgoing ──▶ Packet (JSON)  ──▶ the same bytes to every JSON reader
                   └─▶ Packet (MessagePack), made when the first such reader asks
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

import msgspec
from websockets.frames import Opcode

from server.log.contract import Entry, Position, Recovery
from server.wire.codec import json_encoder, msgpack_encoder
from server.wire.feed import MAX_FRAME_OUT_BYTES, Subscribed
from server.wire.publication import Notice

ANSWER_OVERHEAD_BYTES = 1024
"""Room that a `subscribed` answer keeps for its own fields."""

_json_decoder = msgspec.json.Decoder()
_MEDIUM = Struct("!BBH")
_LONG = Struct("!BBQ")


class Packet:
    """One message for one kind of reader, with the forms that sockets want, each made once.

    Attributes:
        body: The encoded message.
        is_binary: MessagePack, to be sent in a binary frame.
        appended_s: Monotonic time of the publication's append, None for what is no live publication.
    """

    __slots__ = ("_frame", "_text", "appended_s", "body", "is_binary")

    def __init__(self, body: bytes, *, is_binary: bool, appended_s: float | None = None) -> None:
        self.body = body
        self.is_binary = is_binary
        self.appended_s = appended_s
        self._frame: bytes | None = None
        self._text: str | None = None

    @property
    def frame(self) -> bytes:
        """The whole WebSocket frame. A server does not mask, so one frame serves all. Source: RFC 6455 5.1."""
        if self._frame is None:
            self._frame = frame_header(_opcode(self.is_binary), len(self.body)) + self.body
        return self._frame

    @property
    def text(self) -> str:
        """The body of a JSON message as the string that ASGI wants."""
        if self._text is None:
            self._text = self.body.decode()
        return self._text


def frame_header(opcode: Opcode, num_bytes: int) -> bytes:
    """Of a whole, unmasked frame; a fifth of the time that the general serialiser takes. Source: RFC 6455 5.2."""
    if num_bytes < 126:
        return bytes((0x80 | opcode, num_bytes))
    return (
        _MEDIUM.pack(0x80 | opcode, 126, num_bytes) if num_bytes < 65_536 else _LONG.pack(0x80 | opcode, 127, num_bytes)
    )


class Outgoing:
    """Log entries that were appended together, on their way to any number of readers.

    Attributes:
        entries: One or more, in order.
        has_call: A call began, changed hands or ended.
    """

    __slots__ = ("_frames", "_packets", "entries", "has_call")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.has_call = any(entry.kind == "call" for entry in entries)
        self._packets: dict[bool, list[Packet]] = {}
        self._frames: dict[bool, bytes] = {}

    def packets(self, is_binary: bool) -> list[Packet]:
        """The publications for this kind of reader, one by one."""
        packets = self._packets.get(is_binary)
        if packets is None:
            packets = self._packets[is_binary] = [
                Packet(_body(entry, is_binary), is_binary=is_binary, appended_s=entry.appended_s)
                for entry in self.entries
            ]
        return packets

    def frames(self, is_binary: bool) -> bytes:
        """All of them for this kind of reader, as the frames that they are on the wire."""
        frames = self._frames.get(is_binary)
        if frames is None:
            opcode = _opcode(is_binary)
            parts: list[bytes] = []
            for entry in self.entries:
                body = _body(entry, is_binary)
                parts += (frame_header(opcode, len(body)), body)
            frames = self._frames[is_binary] = b"".join(parts)
        return frames


def message_packet(message: msgspec.Struct, is_binary: bool) -> Packet:
    """An answer, a ping or an error for one reader."""
    encoder = msgpack_encoder if is_binary else json_encoder
    return Packet(encoder.encode(message), is_binary=is_binary)


def answer_packets(ch: str, after: Position | None, recovery: Recovery, is_binary: bool) -> list[Packet]:
    """The answer to `sub`: `subscribed` with all that fits into its frame, then the rest as ordinary publications.

    Cut off in between, the reader continues from the last offset it saw: what a snapshot's later part still owes
    is exactly what the log holds after that offset, or newer.
    """
    entries = recovery.tail if recovery.recovered else recovery.snapshot + recovery.tail
    packets = Outgoing(entries).packets(is_binary)
    num_head = _num_that_fit(packets)
    if num_head == len(packets):
        offset = recovery.position.offset
    elif num_head:
        offset = entries[num_head - 1].position.offset
    else:
        offset = after.offset if recovery.recovered and after is not None else 0
    head = [msgspec.Raw(packet.body) for packet in packets[:num_head]]
    answer = Subscribed(
        ch=ch,
        recovered=recovery.recovered,
        ep=recovery.position.epoch,
        off=offset,
        tail=head if recovery.recovered else head[len(recovery.snapshot) :],
        snapshot=None if recovery.recovered else head[: len(recovery.snapshot)],
        num_more=len(packets) - num_head,
    )
    rest = packets[num_head:]
    for packet in rest:
        packet.appended_s = None  # old news: no measure of how fast the feed delivers
    return [message_packet(answer, is_binary), *rest]


def _num_that_fit(packets: list[Packet]) -> int:
    left_bytes = MAX_FRAME_OUT_BYTES - ANSWER_OVERHEAD_BYTES
    for number, packet in enumerate(packets):
        left_bytes -= len(packet.body) + 1
        if left_bytes < 0:
            return number
    return len(packets)


def _opcode(is_binary: bool) -> Opcode:
    return Opcode.BINARY if is_binary else Opcode.TEXT


def _body(entry: Entry, is_binary: bool) -> bytes:
    body = _fit(entry)
    return msgpack_encoder.encode(_json_decoder.decode(body)) if is_binary else body


def _fit(entry: Entry) -> bytes:
    """The entry's body, or what of it a frame can hold: first without word times, then only the fact itself."""
    if len(entry.body) <= MAX_FRAME_OUT_BYTES:
        return entry.body
    publication = _json_decoder.decode(entry.body)
    publication["d"].pop("words", None)
    body = json_encoder.encode(publication)
    if len(body) <= MAX_FRAME_OUT_BYTES:
        return body
    notice = Notice(
        code="publication_too_large",
        message=f"A publication of kind {entry.kind} is too large for the feed; read it from the conversation.",
        severity="warning",
    )
    return json_encoder.encode(publication | {"kind": "notice", "d": notice})
