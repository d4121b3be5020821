"""Frames in an append-only file: what a crash or a bad disk leaves is recognised, cut or skipped, never misread.

    frame = mark (2 bytes) · payload length (u32) · CRC-32 of length and payload (u32) · payload

A torn end (the process died while writing) is cut: `Scan.sound_bytes` is where to go on writing. Damage in the middle
is skipped to the next whole frame, so that one bad sector costs the frames it hit and not those behind it. Pure.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
"""Above any frame we write; a length beyond it is damage and is not even tried."""

_MARK = b"\xc5\x9e"
_HEAD = struct.Struct("<2sII")
_LENGTH = struct.Struct("<I")


@dataclass(slots=True)
class Scan:
    """What a file holds.

    Attributes:
        payloads: Payloads of the whole frames, in order.
        ends: Byte position behind each of them.
        skipped_bytes: Damage that was stepped over between whole frames.
        sound_bytes: Position behind the last whole frame; what follows is a torn end.
    """

    payloads: list[bytes] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    skipped_bytes: int = 0
    sound_bytes: int = 0


def frame(payload: bytes) -> bytes:
    """The bytes to append for one payload.

    Raises:
        ValueError: It is longer than `MAX_PAYLOAD_BYTES`.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError("the payload is too long for a frame")
    return _HEAD.pack(_MARK, len(payload), _checksum(payload)) + payload


def scan(data: bytes) -> Scan:
    """Find the whole frames of a file's bytes. Never raises, whatever the bytes are."""
    found = Scan()
    position = 0
    while position < len(data):
        payload = _payload_at(data, position)
        if payload is None:
            position = data.find(_MARK, position + 1)
            if position < 0:
                break
            continue
        found.skipped_bytes += position - found.sound_bytes
        position += _HEAD.size + len(payload)
        found.payloads.append(payload)
        found.ends.append(position)
        found.sound_bytes = position
    return found


def _payload_at(data: bytes, position: int) -> bytes | None:
    start = position + _HEAD.size
    if start > len(data):
        return None
    mark, length, checksum = _HEAD.unpack_from(data, position)
    if mark != _MARK or length > MAX_PAYLOAD_BYTES or start + length > len(data):
        return None
    payload = data[start : start + length]
    return payload if _checksum(payload) == checksum else None


def _checksum(payload: bytes) -> int:
    # The length is part of it: a run of zeros must not read as an endless row of empty frames.
    return zlib.crc32(payload, zlib.crc32(_LENGTH.pack(len(payload))))
