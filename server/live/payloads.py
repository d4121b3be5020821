"""What was said and found, as it is published, and back again. Pure."""

from __future__ import annotations

from server.wire.ids import ConversationId, TenantId, UtteranceId
from server.wire.publication import Transcript
from server.wire.utterance import Utterance


def transcript_of(utterance: Utterance) -> Transcript:
    """An utterance revision for the feed; words' times only where they will not change any more."""
    return Transcript(
        utterance_id=utterance.utterance_id,
        revision=utterance.revision,
        speaker=utterance.speaker,
        start_ms=utterance.start_ms,
        end_ms=utterance.end_ms,
        text=utterance.text,
        is_final=utterance.is_final,
        origin=utterance.origin,
        language=utterance.language,
        confidence=utterance.confidence,
        words=utterance.words if utterance.is_final else (),
    )


def utterance_of(tenant_id: TenantId, conversation_id: ConversationId, said: Transcript) -> Utterance:
    """An utterance as it was before it was published."""
    return Utterance(
        tenant_id=tenant_id,
        conversation_id=conversation_id,
        utterance_id=UtteranceId(said.utterance_id),
        speaker=said.speaker,
        start_ms=said.start_ms,
        end_ms=said.end_ms,
        revision=said.revision,
        text=said.text,
        words=said.words,
        language=said.language,
        confidence=said.confidence,
        is_final=said.is_final,
        origin=said.origin,
    )
