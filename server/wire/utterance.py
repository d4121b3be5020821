"""What was said: the value that travels between the rooms."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from server.wire.ids import ConversationId, Speaker, TenantId, UtteranceId

Millis = Annotated[int, msgspec.Meta(ge=0, le=7 * 24 * 3600 * 1000)]
"""Audio time of a call: a week at most, which every store and every client can count."""

Origin = Literal["speech", "transcript", "tts", "backfill"]
"""Where the text came from: our recogniser, a transcript source, our own synthesised voice, or a repaired gap."""


class Word(msgspec.Struct, frozen=True):
    """One recognised word on the audio clock.

    Attributes:
        text: The word as written, with its punctuation.
        start_ms: Audio time of its first sample.
        end_ms: Audio time after its last sample.
        confidence: 0 to 1.
    """

    text: str
    start_ms: Millis
    end_ms: Millis
    confidence: float = 1.0


class Utterance(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of one speaker's stretch of speech. A higher `revision` replaces a lower one everywhere.

    Attributes:
        tenant_id: Owner of the call.
        conversation_id: The call.
        utterance_id: Stable over all revisions; unique within the call.
        speaker: `customer` or `agent`.
        start_ms: Audio time of the first sample.
        end_ms: Audio time after the last sample so far.
        revision: 1 and up; grows with every change.
        text: What was said, as recognised so far.
        words: Word times where the recogniser gives them, else empty.
        language: BCP 47 tag.
        confidence: 0 to 1, 1 where the source gives none.
        is_final: The text will not change any more.
        origin: Where the text came from.
    """

    tenant_id: TenantId
    conversation_id: ConversationId
    utterance_id: UtteranceId
    speaker: Speaker
    start_ms: int
    end_ms: int
    revision: int
    text: str
    words: tuple[Word, ...] = ()
    language: str = "en"
    confidence: float = 1.0
    is_final: bool = False
    origin: Origin = "speech"
