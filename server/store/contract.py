"""The store contract: idempotent upserts, read models, nothing on the hot path.

The feed never waits for the store: records go through the durable outbox, which drains into a `Store`. A record is
applied only if its revision is higher than the stored one (a final utterance ranks above every interim), so draining
twice, or in another order, changes nothing. Source: DESIGN 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from server.wire.ids import AgentId, TenantId
from server.wire.publication import Action, Gap
from server.wire.utterance import Utterance


class ConversationRecord(msgspec.Struct, frozen=True, kw_only=True, tag="conversation"):
    """A call began, changed hands or ended. Wall times in ms since the Unix epoch."""

    tenant_id: str
    conversation_id: str
    revision: int
    agent_id: str | None
    state: str
    policy: str
    language: str
    started_ms: float
    ended_ms: float | None = None
    customer_id: str | None = None


class UtteranceRecord(msgspec.Struct, frozen=True, kw_only=True, tag="utterance"):
    """An utterance revision, with the server-side stage durations it was published with."""

    utterance: Utterance
    stages_ms: dict[str, float] = {}


class ActionRecord(msgspec.Struct, frozen=True, kw_only=True, tag="action"):
    """An action revision as published, with its stamps."""

    tenant_id: str
    conversation_id: str
    action: Action
    stages_ms: dict[str, float] = {}


UNANSWERED = "unanswered:"
"""Id prefix of an action that was wanted and is not there: a question without an answer, for who writes articles."""


class ReceiptRecord(msgspec.Struct, frozen=True, kw_only=True, tag="receipt"):
    """What an agent did with an action. Keyed by (action, event); the first one counts."""

    tenant_id: str
    conversation_id: str
    action_id: str
    event: str
    agent_id: str | None
    at_ms: float
    painted_at_ms: float | None = None


class GapRecord(msgspec.Struct, frozen=True, kw_only=True, tag="gap"):
    """A gap as published."""

    tenant_id: str
    conversation_id: str
    revision: int
    gap: Gap


class CoverageRecord(msgspec.Struct, frozen=True, kw_only=True, tag="coverage"):
    """How far one side's audio was acknowledged: the source may have forgotten it, so it never resumes before that."""

    tenant_id: str
    conversation_id: str
    speaker: str
    covered_ms: int


class ErasureRecord(msgspec.Struct, frozen=True, kw_only=True, tag="erasure"):
    """Everything of this conversation goes, whatever comes before or after this in any journal.

    Attributes:
        tenant_id: Owner.
        conversation_id: The call.
        receipt_id: One for each request, which may be about several conversations.
        reason: `request` or `retention`.
        requested_by: Who.
        at_ms: When, wall clock.
    """

    tenant_id: str
    conversation_id: str
    receipt_id: str
    reason: Literal["request", "retention"]
    requested_by: str
    at_ms: float


Record = (
    ConversationRecord | UtteranceRecord | ActionRecord | ReceiptRecord | GapRecord | CoverageRecord | ErasureRecord
)


def owner_of(record: Record) -> tuple[str, str]:
    """Tenant and conversation of a record."""
    owned = record.utterance if isinstance(record, UtteranceRecord) else record
    return owned.tenant_id, owned.conversation_id


class Store(Protocol):
    """Applies records and answers the REST API."""

    async def start(self) -> None:
        """Connect and migrate to the newest schema. Raises `ConfigError` when the schema is newer than the code."""

    async def apply(self, records: Sequence[Record]) -> None:
        """Upsert a batch in one transaction. Raises `Unavailable` when it should be tried again."""

    async def conversations(self, tenant_id: TenantId, *, limit: int, before_ms: float | None) -> list[dict[str, Any]]:
        """Newest first."""

    async def conversation(self, tenant_id: TenantId, conversation_id: str) -> dict[str, Any] | None:
        """One conversation with its utterances (highest revisions, audio order), actions, gaps and receipts."""

    async def agent_of(self, tenant_id: TenantId, conversation_id: str) -> tuple[bool, AgentId | None]:
        """Whether there is such a conversation, and whose it is."""

    async def of_customer(self, tenant_id: TenantId, customer_id: str) -> list[str]:
        """Conversations of a customer."""

    async def begun_before(self, tenant_id: TenantId, before_ms: float, limit: int) -> list[str]:
        """Conversations that began before that, oldest first."""

    async def unended(self, tenant_id: TenantId, limit: int) -> list[ConversationRecord]:
        """Conversations that began and did not end, newest first."""

    async def tenants(self) -> list[TenantId]:
        """Tenants that have conversations here."""

    async def unanswered(self, tenant_id: TenantId, limit: int) -> list[dict[str, Any]]:
        """Questions that the knowledge base did not answer: `conversation_id`, `question` and `evidence`."""

    async def erasures(self, tenant_id: TenantId, receipt_id: str) -> list[dict[str, Any]]:
        """What was erased for that receipt, with the number of rows by table."""

    async def has_action(self, tenant_id: TenantId, conversation_id: str, action_id: str) -> bool:
        """Whether that card was published in that conversation."""

    async def covered_ms(self, tenant_id: TenantId, conversation_id: str, speaker: str) -> int:
        """What was acknowledged of that side, at least to its last stored final, else 0: where a source resumes."""

    async def revisions(self, tenant_id: TenantId, conversation_id: str) -> dict[str, tuple[int, bool]]:
        """Utterance id to (highest stored revision, is_final), so that a resumed call never goes back."""

    async def stop(self) -> None:
        """Finish and disconnect."""
