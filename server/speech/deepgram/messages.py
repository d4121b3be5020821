"""Deepgram's live messages. Times are seconds since the connection's first sample.

Source: PROTOCOLS b1; deepgram-sdk 7, `deepgram/listen/v1/types`.
"""

from __future__ import annotations

from typing import Any

import msgspec


class WireWord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One word."""

    word: str
    start: float
    end: float
    confidence: float = 1.0
    punctuated_word: str | None = None
    language: str | None = None


class Alternative(msgspec.Struct, frozen=True):
    """One reading; the first is the best."""

    transcript: str
    confidence: float = 0.0
    words: tuple[WireWord, ...] = ()
    languages: tuple[str, ...] = ()


class Channel(msgspec.Struct, frozen=True):
    """Readings of one audio channel."""

    alternatives: tuple[Alternative, ...]


class Results(msgspec.Struct, frozen=True, tag="Results", tag_field="type", kw_only=True):
    """Text of the window `start` to `start + duration`.

    Attributes:
        channel_index: Which channel, of how many.
        is_final: The text of this window will not change. Several may make one utterance; the text may be empty.
        speech_final: The speaker paused: the utterance is over. Implies `is_final`; may never come.
        from_finalize: A `Finalize` made it final.
    """

    channel_index: tuple[int, ...] = (0, 1)
    start: float
    duration: float
    is_final: bool = False
    speech_final: bool = False
    from_finalize: bool = False
    channel: Channel
    metadata: dict[str, Any] = {}


class SpeechStartedMessage(msgspec.Struct, frozen=True, tag="SpeechStarted", tag_field="type", kw_only=True):
    """Voice began."""

    channel: tuple[int, ...] = (0, 1)
    timestamp: float


class UtteranceEnd(msgspec.Struct, frozen=True, tag="UtteranceEnd", tag_field="type", kw_only=True):
    """No word for `utterance_end_ms`. `last_word_end` is -1 where there was none."""

    channel: tuple[int, ...] = (0, 1)
    last_word_end: float


class Metadata(msgspec.Struct, frozen=True, tag="Metadata", tag_field="type", kw_only=True):
    """The last message of a stream that was closed in order."""

    transaction_key: str = "deprecated"
    request_id: str = ""
    sha256: str = ""
    created: str = ""
    duration: float = 0.0
    channels: int = 1


ServerMessage = Results | SpeechStartedMessage | UtteranceEnd | Metadata


class _Kind(msgspec.Struct, frozen=True):
    type: str


_kind = msgspec.json.Decoder(_Kind)
_decoders: dict[str, msgspec.json.Decoder[ServerMessage]] = {
    "Results": msgspec.json.Decoder(Results),
    "SpeechStarted": msgspec.json.Decoder(SpeechStartedMessage),
    "UtteranceEnd": msgspec.json.Decoder(UtteranceEnd),
    "Metadata": msgspec.json.Decoder(Metadata),
}
_encoder = msgspec.json.Encoder()


def decode(frame: str | bytes) -> ServerMessage | None:
    """Read a message; None for a type that is not known here, which the vendor may add at any time.

    Raises:
        msgspec.DecodeError: It is no message at all, or one of a known type that lacks what it must have.
    """
    decoder = _decoders.get(_kind.decode(frame).type)
    return decoder.decode(frame) if decoder is not None else None


def encode(message: ServerMessage) -> str:
    """Write a message as a text frame."""
    return _encoder.encode(message).decode()


class ControlMessage(msgspec.Struct, frozen=True):
    """What a client says beside audio: `KeepAlive`, `Finalize`, `CloseStream`, or what a newer client may say."""

    type: str


control_decoder = msgspec.json.Decoder(ControlMessage)
