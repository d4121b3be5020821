"""Where a call stands: whose it is, in which state, under which policy. Pure.

standing ─▶ CallState, for the call's channel and its agent's · ConversationRecord, for the store
"""

from __future__ import annotations

from server.store.contract import ConversationRecord
from server.wire.clock import wall_ms
from server.wire.ids import AgentId, ConversationId, TenantId
from server.wire.publication import CallState


class Standing:
    """One call's.

    Args:
        tenant_id: Owner.
        conversation_id: The call.
        agent_id: Whose call it is, None while nobody's.
        customer_id: The telephony side's name for the customer.
        policy: Name and version of the policy that it keeps.
        languages: Expected languages of the policy.
        language: Expected language of the call.

    Attributes:
        agent_id: Whose call it is, None while nobody's.
        customer_id: See above.
        language: See above.
        revision: Of the newest record.
        started_ms: Wall time at which it began.
    """

    def __init__(
        self,
        tenant_id: TenantId,
        conversation_id: ConversationId,
        agent_id: AgentId | None,
        customer_id: str | None,
        policy: str,
        languages: tuple[str, ...],
        language: str,
    ) -> None:
        self.agent_id = agent_id
        self.customer_id = customer_id
        self.language = language
        self.revision = 0
        self.started_ms = wall_ms()
        self._tenant_id = tenant_id
        self._conversation_id = conversation_id
        self._policy = policy
        self._languages = languages

    def go_on(self, customer_id: str | None, language: str, revision: int, started_ms: float) -> None:
        """What is known of it from another process; `started_ms` 0: it begins now."""
        self.customer_id = self.customer_id or customer_id
        if started_ms:
            self.language = language or self.language
        self.revision = revision
        self.started_ms = started_ms or self.started_ms

    def payload(self, state: str, reason: str = "") -> CallState:
        """What the feed is told."""
        return CallState(
            conversation_id=self._conversation_id,
            state="started" if state == "started" else "ended",
            agent_id=self.agent_id,
            tenant_id=self._tenant_id,
            policy=self._policy,
            languages=self._languages,
            reason=reason,
        )

    def record(self, state: str) -> ConversationRecord:
        """What the store keeps; the next revision."""
        self.revision += 1
        return ConversationRecord(
            tenant_id=self._tenant_id,
            conversation_id=self._conversation_id,
            revision=self.revision,
            agent_id=self.agent_id,
            state=state,
            policy=self._policy,
            language=self.language,
            started_ms=self.started_ms,
            ended_ms=wall_ms() if state == "ended" else None,
            customer_id=self.customer_id,
        )
