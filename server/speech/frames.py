"""What the server and a worker process say to each other: msgpack frames, each after its length in four bytes.

    server ──▶ Configure, then Open | Audio | Finalize | CloseStream | Abandon, and Recognise
    worker ──▶ Ready, then Event | Progress | Ended, and Recognised

Private to `server.speech`; both ends are always of the same version.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final as Constant

import msgspec

from server.speech.contract import (
    Covered,
    EndOfSpeech,
    Final,
    Interim,
    SpeechEvent,
    SpeechGap,
    SpeechStarted,
)
from server.speech.decoder import Decoded
from server.speech.settings import EmbeddedSettings

_HEADER: Constant = struct.Struct("<I")
_MAX_FRAME_BYTES: Constant = 16 * 1024 * 1024


class _Frame(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all frames."""


class Configure(_Frame, frozen=True):
    """The first frame: what to load and how to cut. `model_folder` is Whisper's where the settings name one."""

    settings: EmbeddedSettings
    model_folder: str
    silero_path: str


class Open(_Frame, frozen=True):
    """Begin a stream of linear16 mono."""

    stream: int
    rate_hz: int
    start_ms: int
    language: str


class Audio(_Frame, frozen=True):
    """The next samples of a stream."""

    stream: int
    pcm: bytes


class Finalize(_Frame, frozen=True):
    """Close the segment that is open now."""

    stream: int


class CloseStream(_Frame, frozen=True):
    """No more audio; `Ended` follows the last event."""

    stream: int


class Abandon(_Frame, frozen=True):
    """Forget the stream; nothing follows."""

    stream: int


class Recognise(_Frame, frozen=True):
    """Decode one stretch of speech, of no stream. Waits for nothing but what runs."""

    number: int
    rate_hz: int
    language: str
    pcm: bytes


class Ready(_Frame, frozen=True):
    """Loaded and warm."""

    load_s: float


class Event(_Frame, frozen=True):
    """One speech event; `body` is the event as msgpack, `kind` its type's name."""

    stream: int
    kind: str
    body: msgspec.Raw


class Progress(_Frame, frozen=True):
    """So many milliseconds of a stream wait for nothing any more."""

    stream: int
    resolved_ms: int


class Ended(_Frame, frozen=True):
    """The stream's last event is out."""

    stream: int


class Recognised(_Frame, frozen=True):
    """Answer to a `Recognise`. `decoded` is None when the decoder failed on it; `took_s` is the decode alone."""

    number: int
    decoded: Decoded | None
    took_s: float


Command = Open | Audio | Finalize | CloseStream | Abandon | Recognise
Reply = Ready | Event | Progress | Ended | Recognised

_encoder = msgspec.msgpack.Encoder()
_decoders: Constant[dict[str, msgspec.msgpack.Decoder[SpeechEvent]]] = {
    kind.__name__: msgspec.msgpack.Decoder(kind)
    for kind in (SpeechStarted, Interim, Final, EndOfSpeech, SpeechGap, Covered)
}


def encode(frame: _Frame) -> bytes:
    """One frame with its length."""
    body = _encoder.encode(frame)
    return _HEADER.pack(len(body)) + body


def event_frame(stream: int, event: SpeechEvent) -> Event:
    """A speech event as a frame."""
    return Event(stream, type(event).__name__, msgspec.Raw(_encoder.encode(event)))


def event_of(frame: Event) -> SpeechEvent:
    """The speech event in a frame.

    Raises:
        msgspec.DecodeError: It is none.
    """
    return _decoders[frame.kind].decode(frame.body)


class FrameReader:
    """Cuts a byte stream into frame bodies; keeps what is incomplete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes and give the bodies of the frames that are complete now.

        Raises:
            ValueError: A frame announces an impossible length: the other end is not ours.
        """
        self._buffer += data
        position = 0
        while len(self._buffer) - position >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer, position)
            if length > _MAX_FRAME_BYTES:
                raise ValueError(f"frame of {length} bytes")
            end = position + _HEADER.size + length
            if end > len(self._buffer):
                break
            yield bytes(self._buffer[position + _HEADER.size : end])
            position = end
        del self._buffer[:position]
