"""What every live call passes its values to; one set a process, handed in by the composition root."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from server.knowledge import Library, Writer
from server.live.records import RecordSink
from server.log.contract import EventLog
from server.log.leases import Leases, SoleOwner
from server.metrics import Metrics
from server.orchestrator import Guide, Orchestrator
from server.policy.rulebook import RuleBook
from server.store.contract import Store
from server.wire.ids import TenantId


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a call begins with and keeps: the rules of its policy and its compiled guide."""

    book: RuleBook
    policy_name: str
    languages: tuple[str, ...]
    guide: Guide
    keyterms: tuple[str, ...] = ()


class PolicyDesk(Protocol):
    """Gives each new call its policy."""

    def pin(self, tenant_id: TenantId) -> Pinned:
        """Policy and guide of a tenant, as they are now. Raises `NotFound` for an unknown tenant."""


@dataclass(frozen=True, slots=True)
class Stations:
    """The stations of the way of the data.

    Attributes:
        log: Where publications are appended.
        outbox: Where records are handed over.
        store: What is known of calls that begin again.
        orchestrator: Asks the engine.
        policies: Policy and guide of a new call.
        metrics: Counters.
        library: Knowledge bases; None: this server answers no questions.
        leases: Which process owns which call.
        writer: Writes answers; None: the sentences of a passage are the answer.
    """

    log: EventLog
    outbox: RecordSink
    store: Store
    orchestrator: Orchestrator
    policies: PolicyDesk
    metrics: Metrics
    library: Library | None = None
    leases: Leases = field(default_factory=SoleOwner)
    writer: Writer | None = None
