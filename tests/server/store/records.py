"""Records to store."""

from __future__ import annotations

from typing import Literal

from server.store.contract import (
    ActionRecord,
    ConversationRecord,
    CoverageRecord,
    ErasureRecord,
    GapRecord,
    ReceiptRecord,
    UtteranceRecord,
)
from server.wire.ids import ConversationId, Speaker, TenantId, UtteranceId
from server.wire.publication import Action, ActionStateName, Evidence, Gap
from server.wire.utterance import Utterance, Word

TENANT = TenantId("car_service")


def utterance(
    utterance_id: str = "u1",
    revision: int = 1,
    text: str = "my oil light",
    *,
    final: bool = False,
    speaker: Speaker = "customer",
    start_ms: int = 0,
    end_ms: int = 900,
    tenant_id: TenantId = TENANT,
    conversation_id: str = "c1",
) -> UtteranceRecord:
    said = Utterance(
        tenant_id=tenant_id,
        conversation_id=ConversationId(conversation_id),
        utterance_id=UtteranceId(utterance_id),
        speaker=speaker,
        start_ms=start_ms,
        end_ms=end_ms,
        revision=revision,
        text=text,
        words=(Word("my", 0, 100, 0.5),),
        is_final=final,
    )
    return UtteranceRecord(utterance=said, stages_ms={"asr": 120.5})


def conversation(
    conversation_id: str = "c1",
    revision: int = 1,
    state: str = "started",
    started_ms: float = 1000.0,
    tenant_id: TenantId = TENANT,
    customer_id: str | None = None,
) -> ConversationRecord:
    return ConversationRecord(
        tenant_id=tenant_id,
        conversation_id=conversation_id,
        revision=revision,
        agent_id="a1",
        state=state,
        policy="car_service/3",
        language="en",
        started_ms=started_ms,
        ended_ms=None if state == "started" else started_ms + 5,
        customer_id=customer_id,
    )


def action(action_id: str = "a1", revision: int = 1, state: ActionStateName = "new") -> ActionRecord:
    evidence = Evidence(
        utterance_id="u1", text="my oil light", start_ms=0, end_ms=900, speaker="customer", rule="moments.light.any[0]"
    )
    card = Action(
        id=action_id,
        revision=revision,
        type="hint",
        title="Offer the reset",
        state=state,
        priority=5,
        ttl_ms=9000,
        evidence=(evidence,),
    )
    return ActionRecord(tenant_id=TENANT, conversation_id="c1", action=card, stages_ms={"publish": 1.0})


def receipt(event: str = "shown", at_ms: float = 5.0, action_id: str = "a1") -> ReceiptRecord:
    return ReceiptRecord(
        tenant_id=TENANT, conversation_id="c1", action_id=action_id, event=event, agent_id="a1", at_ms=at_ms
    )


def gap(
    revision: int = 1, state: Literal["open", "closed", "backfilled", "lost"] = "open", to_ms: int | None = None
) -> GapRecord:
    hole = Gap(from_ms=100, to_ms=to_ms, cause="recogniser_lost", state=state, speaker="customer")
    return GapRecord(tenant_id=TENANT, conversation_id="c1", revision=revision, gap=hole)


def coverage(covered_ms: int = 500, speaker: str = "customer") -> CoverageRecord:
    return CoverageRecord(tenant_id=TENANT, conversation_id="c1", speaker=speaker, covered_ms=covered_ms)


def erasure(conversation_id: str = "c1", tenant_id: TenantId = TENANT) -> ErasureRecord:
    return ErasureRecord(
        tenant_id=tenant_id,
        conversation_id=conversation_id,
        receipt_id="r1",
        reason="request",
        requested_by="admin",
        at_ms=7.0,
    )
