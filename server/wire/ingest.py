"""Messages of `/v1/ingest/audio` and `/v1/ingest/transcripts`, both directions.

Audio: `start` → `started`; binary PCM → `ack`s as its words are safe; `keepalive`; `assign`; `stop` → `stopped`.
Transcripts: `start` → `started`; `utterance` → `ack`; `assign`; `stop` → `stopped`.

Source: DESIGN 14.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from server.wire.ids import ExternalId, Speaker
from server.wire.utterance import Millis, Word

MIN_SAMPLE_RATE_HZ = 8_000
MAX_SAMPLE_RATE_HZ = 48_000
MAX_TEXT_CHARS = 100_000
"""Longest accepted utterance text; 10,000 words fit. Longer is an error, never cut."""
MAX_WORDS = 20_000

Encoding = Literal["linear16", "mulaw"]
LANGUAGE_PATTERN = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$(?!\n)"
LanguageTag = Annotated[str, msgspec.Meta(pattern=LANGUAGE_PATTERN)]


class AudioStart(msgspec.Struct, frozen=True, tag="start"):
    """Opens an audio source. `layout: stereo` interleaves two channels, `mono` is one socket a role.

    `start_ms` is the call's audio time of the first sample, for a side that joins late: both sides share one clock.

    `lost_from_ms`: audio from there to `start_ms` was spoken, is not stored, and is gone; the agent is told of the gap.

    `is_live`: the source has no audio of before, so the time without any has passed on the call's clock.

    `customer_id` is your own name for the customer, so that all of a person's calls can be found and erased.
    """

    conversation_id: ExternalId
    encoding: Encoding
    sample_rate_hz: Annotated[int, msgspec.Meta(ge=MIN_SAMPLE_RATE_HZ, le=MAX_SAMPLE_RATE_HZ)]
    layout: Literal["stereo", "mono"]
    roles: Annotated[list[Speaker], msgspec.Meta(min_length=1, max_length=2)]
    agent_id: ExternalId | None = None
    customer_id: ExternalId | None = None
    tenant_id: ExternalId | None = None
    language: LanguageTag | None = None
    start_ms: Millis = 0
    lost_from_ms: Millis | None = None
    is_live: bool = False


class KeepAlive(msgspec.Struct, frozen=True, tag="keepalive"):
    """The source lives, but has no audio now: the call is on hold."""


class Assign(msgspec.Struct, frozen=True, tag="assign"):
    """An agent took the call, which began before anybody knew whose it would be, or took it over from another."""

    agent_id: ExternalId


class TranscriptStart(msgspec.Struct, frozen=True, tag="start"):
    """Opens a transcript source."""

    conversation_id: ExternalId
    agent_id: ExternalId | None = None
    customer_id: ExternalId | None = None
    tenant_id: ExternalId | None = None
    language: LanguageTag | None = None


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Ends the source; with the last source the call ends. `call_ended: false` keeps the call for a transfer."""

    call_ended: bool = True


class UtteranceIn(msgspec.Struct, frozen=True, tag="utterance"):
    """One utterance revision from a transcript source."""

    utterance_id: ExternalId
    revision: Annotated[int, msgspec.Meta(ge=0, le=2**31)]
    speaker: Speaker
    start_ms: Millis
    end_ms: Millis
    text: Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARS)]
    is_final: bool
    words: Annotated[tuple[Word, ...], msgspec.Meta(max_length=MAX_WORDS)] = ()
    language: LanguageTag | None = None


class Started(msgspec.Struct, frozen=True, tag="started"):
    """Answer to `start`, before any work. The source sends audio from `resume_from_ms` of its own clock on."""

    resume_from_ms: int = 0


class AudioAck(msgspec.Struct, frozen=True, tag="ack"):
    """Audio before `stored_ms` is covered by stored finals or a durable spool; the sender may forget it."""

    stored_ms: int


class UtteranceAck(msgspec.Struct, frozen=True, tag="ack"):
    """This revision, or a higher one, is in store or outbox."""

    utterance_id: str
    revision: int


class Stopped(msgspec.Struct, frozen=True, tag="stopped"):
    """Answer to `stop`, after the last final was stored."""


class ErrorMessage(msgspec.Struct, frozen=True, tag="error", omit_defaults=True):
    """A typed refusal, on every socket. `field` is the path of the wrong value, `ch` the feed channel it is about."""

    code: str
    message: str
    retryable: bool
    field: str | None = None
    ch: str | None = None


AudioClientMessage = AudioStart | KeepAlive | Assign | Stop
TranscriptClientMessage = TranscriptStart | UtteranceIn | Assign | Stop
