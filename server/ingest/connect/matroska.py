"""A streaming Matroska parser, just deep enough for audio fragments. Pure.

    bytes, cut anywhere ──feed──▶ Open(id) · Value(id, payload) · Close(id)

Elements leave as soon as their last byte is there. What nobody asked for is skipped without being kept, so memory is
one element and the cost is linear in the bytes, however they were cut. Source: RFC 8794 (EBML), RFC 9559 (Matroska).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.wire.errors import BadAudio

EBML: Final = 0x1A45DFA3
SEGMENT: Final = 0x18538067
INFO: Final = 0x1549A966
TIMECODE_SCALE: Final = 0x2AD7B1
TRACKS: Final = 0x1654AE6B
TRACK_ENTRY: Final = 0xAE
TRACK_NUMBER: Final = 0xD7
TRACK_NAME: Final = 0x536E
CLUSTER: Final = 0x1F43B675
TIMECODE: Final = 0xE7
SIMPLE_BLOCK: Final = 0xA3
TAGS: Final = 0x1254C367
TAG: Final = 0x7373
SIMPLE_TAG: Final = 0x67C8
TAG_NAME: Final = 0x45A3
TAG_STRING: Final = 0x4487

_MASTERS: Final = {SEGMENT: 0, INFO: 1, TRACKS: 1, TRACK_ENTRY: 2, CLUSTER: 1, TAGS: 1, TAG: 2, SIMPLE_TAG: 3}
"""Elements that are entered, with their level."""
_LEVELS: Final = _MASTERS | {EBML: 0, 0x1C53BB6B: 1, 0x114D9B74: 1, 0x1043A770: 1, 0x1941A469: 1}
"""And those whose appearance ends a master of unknown size: header, cues, seek head, chapters, attachments."""
_VALUES: Final = frozenset({TIMECODE_SCALE, TRACK_NUMBER, TRACK_NAME, TIMECODE, SIMPLE_BLOCK, TAG_NAME, TAG_STRING})
_TOP: Final = frozenset({EBML, SEGMENT, 0xEC})
"""What a document consists of; 0xEC is padding."""
_UNKNOWN: Final = -1
_MAX_ID_BYTES: Final = 4
_MAX_SIZE_BYTES: Final = 8
MAX_VALUE_BYTES = 1024 * 1024
"""Of one value; a block of a second of audio has 16 KiB."""
MAX_SKIPPED_BYTES = 16 * 1024 * 1024
"""Of one element that nobody asked for; more is no audio fragment, and would swallow a call in silence."""
MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Open:
    """A master element begins."""

    id: int


@dataclass(frozen=True, slots=True)
class Value:
    """A leaf, whole."""

    id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """A master element is over."""

    id: int


Element = Open | Value | Close


class MatroskaParser:
    """Parses a sequence of Matroska documents, as `GetMedia` returns them."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # read position in the buffer
        self._skip = 0  # bytes of an element that nobody asked for
        self._position = 0  # of `_at` in the stream
        self._masters: list[tuple[int, int]] = []  # (id, end in the stream or _UNKNOWN), outermost first

    def feed(self, data: bytes) -> list[Element]:
        """Take bytes and return the elements that they complete.

        Raises:
            BadAudio: This is no Matroska, or an element is larger than any fragment's. The parser is of no use then.
        """
        self._buffer += data
        found: list[Element] = []
        while True:
            if self._skip:
                self._advance(min(self._skip, len(self._buffer) - self._at), skipped=True)
                if self._skip:
                    break
            while self._masters and 0 <= self._masters[-1][1] <= self._position:
                found.append(Close(self._masters.pop()[0]))
            header = self._header()
            if header is None:
                break
            element_id, size, header_bytes = header
            if element_id in _LEVELS:
                while self._masters and self._masters[-1][1] == _UNKNOWN and _ends(element_id, self._masters[-1][0]):
                    found.append(Close(self._masters.pop()[0]))
            if not self._masters and element_id not in _TOP:
                raise BadAudio("these bytes are no Matroska document")
            if element_id in _MASTERS:
                self._enter(element_id, size, header_bytes)
                found.append(Open(element_id))
            elif size == _UNKNOWN:
                raise BadAudio("a Matroska element that may not has an unknown size")
            elif element_id in _VALUES:
                if size > MAX_VALUE_BYTES:
                    raise BadAudio(f"a Matroska value has {size} bytes, the limit is {MAX_VALUE_BYTES}")
                self._fits(header_bytes + size)
                if len(self._buffer) - self._at < header_bytes + size:
                    break
                start = self._at + header_bytes
                found.append(Value(element_id, bytes(self._buffer[start : start + size])))
                self._advance(header_bytes + size)
            else:
                if size > MAX_SKIPPED_BYTES:
                    raise BadAudio(f"a Matroska element has {size} bytes, the limit is {MAX_SKIPPED_BYTES}")
                self._fits(header_bytes + size)
                self._skip = size
                self._advance(header_bytes)
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        return found

    def _enter(self, element_id: int, size: int, header_bytes: int) -> None:
        if len(self._masters) >= MAX_DEPTH:
            raise BadAudio("Matroska elements are nested too deeply")
        if size != _UNKNOWN:
            self._fits(header_bytes + size)
        self._advance(header_bytes)
        self._masters.append((element_id, _UNKNOWN if size == _UNKNOWN else self._position + size))

    def _fits(self, num_bytes: int) -> None:
        end = self._position + num_bytes
        for _, master_end in reversed(self._masters):
            if master_end != _UNKNOWN:
                if end > master_end:
                    raise BadAudio("a Matroska element is longer than the one around it")
                return

    def _advance(self, num_bytes: int, *, skipped: bool = False) -> None:
        self._at += num_bytes
        self._position += num_bytes
        if skipped:
            self._skip -= num_bytes

    def _header(self) -> tuple[int, int, int] | None:
        """Id, size and header length of the element at the read position; None while its header is incomplete."""
        buffer, at = self._buffer, self._at
        if at >= len(buffer):
            return None
        id_bytes = 9 - buffer[at].bit_length()
        if id_bytes > _MAX_ID_BYTES:
            raise BadAudio("these bytes are no Matroska element")
        if at + id_bytes >= len(buffer):
            return None
        first = buffer[at + id_bytes]
        size_bytes = 9 - first.bit_length()
        if size_bytes > _MAX_SIZE_BYTES:
            raise BadAudio("these bytes are no Matroska element")
        if at + id_bytes + size_bytes > len(buffer):
            return None
        element_id = int.from_bytes(buffer[at : at + id_bytes])
        all_ones = (1 << 7 * size_bytes) - 1
        size = int.from_bytes(buffer[at + id_bytes : at + id_bytes + size_bytes]) & all_ones
        return element_id, _UNKNOWN if size == all_ones else size, id_bytes + size_bytes


def _ends(element_id: int, master_id: int) -> bool:
    """Whether an element's appearance means that a master of unknown size is over: it cannot be inside."""
    return _LEVELS[element_id] <= _MASTERS[master_id]
