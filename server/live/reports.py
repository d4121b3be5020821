"""What a call reports that nobody said: gaps in what was heard, and that guidance is paused. Pure."""

from __future__ import annotations

from server.speech.contract import SpeechGap
from server.store.contract import GapRecord
from server.wire.ids import ConversationId, Speaker, TenantId
from server.wire.publication import Gap, Notice

NOTICE_EVERY_S = 30.0
"""A standing overload is told again after so long, not at every utterance."""


class Gaps:
    """Those of one call.

    Args:
        tenant_id: Owner.
        conversation_id: The call.
        num: Revision of the newest record.
    """

    def __init__(self, tenant_id: TenantId, conversation_id: ConversationId, num: int) -> None:
        self.num = num
        self._tenant_id = tenant_id
        self._conversation_id = conversation_id

    def report(self, speaker: Speaker, gap: SpeechGap) -> GapRecord:
        """The next record; its `gap` is what is published."""
        self.num += 1
        payload = Gap(from_ms=gap.from_ms, to_ms=gap.to_ms, cause=gap.cause, state=gap.state, speaker=speaker)
        return GapRecord(
            tenant_id=self._tenant_id, conversation_id=self._conversation_id, revision=self.num, gap=payload
        )


class Shedding:
    """When one call says that it has no guidance."""

    def __init__(self) -> None:
        self._noticed_s = -NOTICE_EVERY_S

    def notice(self, now_s: float) -> Notice | None:
        """What to say of an utterance that got none; None: it was said a moment ago."""
        if now_s - self._noticed_s < NOTICE_EVERY_S:
            return None
        self._noticed_s = now_s
        return Notice(code="shedding", message="Guidance is paused: the server is overloaded.", severity="warning")
