"""The speech contract: what every recogniser does, the embedded one and every vendor's.

    open(call) → stream;  stream.send(pcm);  events: interim | final | speech_started | end_of_speech | gap | closed

All times are integer milliseconds on the call's audio clock: an adapter adds its own base when its vendor's times
restart. Vendor flags are mapped once, in the adapter: `Final` is text that will not change; `EndOfSpeech` says
that the speaker stopped. Source: DESIGN 5, PROTOCOLS b1.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from server.wire.ids import ConversationId, Speaker, TenantId
from server.wire.utterance import Word


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a recogniser can do; the pipeline adapts to it.

    Attributes:
        name: Recogniser and model, as shown in status and metrics (`embedded`, `deepgram`).
        interims: Gives text while the person speaks.
        word_times: Gives times per word.
        languages: BCP 47 tags it understands.
        keyterms: Takes vocabulary hints.
        sample_rates_hz: Rates it takes as they are.
        replay_speed: How many times faster than real time it takes audio that is sent again.
        stall_after_s: So much speech without any answer means that it hears nothing any more.
    """

    name: str
    interims: bool
    word_times: bool
    languages: tuple[str, ...]
    keyterms: bool = False
    sample_rates_hz: tuple[int, ...] = (8_000, 16_000)
    replay_speed: float = 4.0
    stall_after_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechCall:
    """What a recogniser is told of one side of a call.

    Attributes:
        tenant_id: Owner.
        conversation_id: The call.
        speaker: Whose voice this stream carries.
        sample_rate_hz: Rate of the linear16 mono samples that `send` will get.
        language: Expected language.
        start_ms: Audio time of the first sample that `send` will get (not 0 after a resume).
        keyterms: Words worth knowing, from policy and knowledge base.
    """

    tenant_id: TenantId
    conversation_id: ConversationId
    speaker: Speaker
    sample_rate_hz: int
    language: str = "en"
    start_ms: int = 0
    keyterms: tuple[str, ...] = field(default=())


def primary_language(tag: str) -> str:
    """`es` of `es-MX`."""
    return tag.split("-")[0].lower()


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Voice began at `at_ms`."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class Interim:
    """Text so far of the speech that began at `start_ms`; it may still change.

    `is_stable` marks text that two decodes in a row agreed on, or that a pause has followed: safe to act on.
    """

    start_ms: int
    end_ms: int
    text: str
    words: tuple[Word, ...] = ()
    confidence: float = 1.0
    language: str = "en"
    is_stable: bool = False


@dataclass(frozen=True, slots=True)
class Final:
    """Text of `start_ms` to `end_ms` that will not change. Empty text is legal and means that nothing was said.

    `is_backfill` marks text that closes a gap which was told before.
    """

    start_ms: int
    end_ms: int
    text: str
    words: tuple[Word, ...] = ()
    confidence: float = 1.0
    language: str = "en"
    is_backfill: bool = False


@dataclass(frozen=True, slots=True)
class EndOfSpeech:
    """The speaker stopped; the utterance is closed. Everything before `covered_ms` is recognised or was silence."""

    at_ms: int
    covered_ms: int


@dataclass(frozen=True, slots=True)
class SpeechGap:
    """Audio from `from_ms` to `to_ms` has no transcript (recogniser lost, overloaded, …)."""

    from_ms: int
    to_ms: int | None
    cause: str
    state: Literal["open", "closed", "backfilled", "lost"]


@dataclass(frozen=True, slots=True)
class Covered:
    """No speech is pending before `covered_ms`: all of it was recognised or silent."""

    covered_ms: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The stream is over; no event follows. `error` is None after a `close`."""

    error: BaseException | None = None


SpeechEvent = SpeechStarted | Interim | Final | EndOfSpeech | SpeechGap | Covered | Closed


class SpeechStream(Protocol):
    """One side of one call. Used from the event loop."""

    async def send(self, pcm: bytes) -> None:
        """Take linear16 mono samples, in order. Returns once they are buffered, never after recognition.

        Raises:
            Overloaded: More than the bounded backlog is waiting; the caller marks a gap.
        """

    async def finalize(self) -> None:
        """Close the utterance that is open now, as at an end of speech."""

    async def close(self) -> None:
        """No more audio. Remaining finals still arrive, then `Closed`. Idempotent."""

    async def abandon(self) -> None:
        """Let go at once: what was sent is forgotten, and at most `Closed` follows. Idempotent."""

    def events(self) -> AsyncIterator[SpeechEvent]:
        """Events in audio order; ends after `Closed`."""


class Recogniser(Protocol):
    """Opens streams. One per process."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    async def start(self) -> None:
        """Load and warm. Raises `ConfigError` when its model is missing or wrong."""

    async def open(self, call: SpeechCall) -> SpeechStream:
        """Open a stream. Raises `Overloaded` when no capacity is left."""

    async def stop(self) -> None:
        """End all streams and release everything."""
