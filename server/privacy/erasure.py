"""Erasure of conversations: every place that has something of them is told, and a receipt lists them.

    request ──audit──▶ outbox (in order, durable) ──▶ store: rows go, a tombstone keeps late records out
                └─────▶ event log and its snapshots · journal and what was set aside · caches

A store that is away makes a receipt pending, never undone: the erasure waits in the journal like any record. A place
that fails is named, and the same request may be sent again; it changes nothing where it was done.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Sequence
from typing import Literal, Protocol

import msgspec

from server.audit.log import AuditLog
from server.auth.identity import Identity
from server.store.contract import ErasureRecord, Record, Store
from server.wire.clock import wall_ms
from server.wire.errors import Conflict, CuelineError, Unavailable
from server.wire.ids import TenantId

logger = logging.getLogger(__name__)

STORE_WITHIN_S = 5.0
"""How long a request waits for the store; then its receipt says that this place is pending."""
REMAINS = (
    "audit log: that it was erased, when and by whom",
    "agent channel of the event log: that the call began and ended, until log.retention_hours",
    "backups of the database: until they end, or the tenant's key is destroyed",
)
"""What an erasure does not reach, said on every receipt."""


class PlaceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one place.

    Attributes:
        place: Its name.
        state: `erased`, `pending` (it will be, without another request) or `failed` (ask again).
        items: Things that were there.
    """

    place: str
    state: Literal["erased", "pending", "failed"]
    items: int | None = None


class ErasureReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to an erasure.

    Attributes:
        receipt_id: Its name, for `GET /v1/erasures/<id>`.
        tenant_id: Owner.
        conversation_ids: What was erased.
        requested_by: Who asked.
        requested_ms: When, wall clock.
        state: `complete`, `pending` or `failed`: the worst of its places.
        places: Every place that was reached.
        remains: What an erasure does not reach.
    """

    receipt_id: str
    tenant_id: str
    conversation_ids: tuple[str, ...]
    requested_by: str
    requested_ms: float
    state: Literal["complete", "pending", "failed"]
    places: tuple[PlaceReport, ...]
    remains: tuple[str, ...] = REMAINS


class Place(Protocol):
    """Something that has customer data of conversations."""

    @property
    def name(self) -> str:
        """As the receipt calls it."""

    async def erase(self, tenant_id: TenantId, conversation_id: str) -> int:
        """Erase a conversation; how many things that were. Idempotent. Raises `CuelineError` to be asked again."""


class Journal(Protocol):
    """The outbox."""

    def put(self, record: Record) -> Awaitable[None]:
        """Take a record; done once it is durable."""

    async def drained(self) -> None:
        """Wait until the store has everything put so far."""

    async def rotate(self) -> None:
        """Have the present file go as soon as the store has what is in it."""

    async def forget_refused(self, tenant_id: str, conversation_id: str) -> int:
        """Remove what was set aside of a conversation."""


class LiveCalls(Protocol):
    """The live calls of all processes."""

    async def is_live(self, tenant_id: TenantId, conversation_id: str) -> bool:
        """Whether a call is live, in whatever process. Raises `Unavailable` when that cannot be known now."""


class Erasure:
    """Erases conversations.

    Args:
        store: Where the rows are.
        journal: The way to it.
        live: A call that is live cannot be erased: it would come back with its next word.
        audit: Notes it before it is done.
        places: Everything else that has something of a conversation.
    """

    def __init__(
        self, store: Store, journal: Journal, live: LiveCalls, audit: AuditLog, places: Sequence[Place]
    ) -> None:
        self._store = store
        self._journal = journal
        self._live = live
        self._audit = audit
        self._places = tuple(places)

    async def erase_customer(self, identity: Identity, customer_id: str) -> ErasureReceipt:
        """Erase every conversation of a person.

        Raises:
            Conflict: One of them is live.
            Unavailable: Which they are cannot be known now.
        """
        try:
            async with asyncio.timeout(STORE_WITHIN_S):
                await self._journal.drained()  # a call that has just ended may still be on its way
                found = await self._store.of_customer(identity.tenant_id, customer_id)
        except TimeoutError:
            raise Unavailable("the store does not answer, so the person's calls cannot be known") from None
        return await self.erase(identity, found)

    async def erase(self, identity: Identity, conversation_ids: Sequence[str]) -> ErasureReceipt:
        """Erase conversations of the identity's tenant, whether there is something of them or not.

        Raises:
            Conflict: One of them is live.
            Unavailable: It cannot be noted or made durable at present; nothing was erased.
        """
        tenant_id, requested_ms = identity.tenant_id, wall_ms()
        for conversation_id in conversation_ids:
            if await self._live.is_live(tenant_id, conversation_id):
                raise Conflict("the call is live; end it first", field="conversation_id")
        for conversation_id in conversation_ids:
            await self._audit.note(identity, "erase", f"call:{conversation_id}")
        who = "anonymous" if identity.is_anonymous else (identity.agent_id or "/".join(sorted(identity.roles)))
        receipt_id = secrets.token_hex(12)
        places = await self._reach(receipt_id, tenant_id, conversation_ids, "request", who, requested_ms)
        states = {report.state for report in places}
        return ErasureReceipt(
            receipt_id=receipt_id,
            tenant_id=tenant_id,
            conversation_ids=tuple(conversation_ids),
            requested_by=who,
            requested_ms=requested_ms,
            state="failed" if "failed" in states else "pending" if "pending" in states else "complete",
            places=places,
        )

    async def expire(self, tenant_id: TenantId, conversation_ids: Sequence[str]) -> None:
        """Erase conversations whose time has come; those that are live wait for the next time.

        Raises:
            Unavailable: It cannot be made durable at present.
        """
        over = [name for name in conversation_ids if not await self._live.is_live(tenant_id, name)]
        receipt_id = secrets.token_hex(12)
        reports = await self._reach(receipt_id, tenant_id, over, "retention", "retention clock", wall_ms())
        for report in reports:
            if report.state == "failed":
                logger.error("retention did not reach a place", extra={"place": report.place, "tenant": tenant_id})

    async def receipt(self, tenant_id: TenantId, receipt_id: str) -> list[dict[str, object]]:
        """What the store says of an erasure; empty if it has not reached it, or there is none."""
        return await self._store.erasures(tenant_id, receipt_id)

    async def _reach(
        self,
        receipt_id: str,
        tenant_id: TenantId,
        conversation_ids: Sequence[str],
        reason: Literal["request", "retention"],
        who: str,
        at_ms: float,
    ) -> tuple[PlaceReport, ...]:
        for conversation_id in conversation_ids:
            await self._journal.put(
                ErasureRecord(
                    tenant_id=tenant_id,
                    conversation_id=conversation_id,
                    receipt_id=receipt_id,
                    reason=reason,
                    requested_by=who,
                    at_ms=at_ms,
                )
            )
        reports = [await self._erase_from(place, tenant_id, conversation_ids) for place in self._places]
        return (*await self._erase_from_store(receipt_id, tenant_id, conversation_ids), *reports)

    async def _erase_from(self, place: Place, tenant_id: TenantId, conversation_ids: Sequence[str]) -> PlaceReport:
        items = 0
        try:
            for conversation_id in conversation_ids:
                items += await place.erase(tenant_id, conversation_id)
        except CuelineError as error:
            logger.error("a place could not be erased", extra={"place": place.name, "reason": error.message})
            return PlaceReport(place=place.name, state="failed")
        return PlaceReport(place=place.name, state="erased", items=items)

    async def _erase_from_store(
        self, receipt_id: str, tenant_id: TenantId, conversation_ids: Sequence[str]
    ) -> tuple[PlaceReport, PlaceReport]:
        try:
            await self._journal.rotate()
            async with asyncio.timeout(STORE_WITHIN_S):
                await self._journal.drained()
                rows = await self._store.erasures(tenant_id, receipt_id)
            set_aside = 0
            for conversation_id in conversation_ids:
                set_aside += await self._journal.forget_refused(tenant_id, conversation_id)
        except (Unavailable, TimeoutError):
            return PlaceReport(place="store", state="pending"), PlaceReport(place="outbox", state="pending")
        except OSError:
            return PlaceReport(place="store", state="pending"), PlaceReport(place="outbox", state="failed")
        items = sum(sum(row["num_rows"].values()) for row in rows)
        return (
            PlaceReport(place="store", state="erased", items=items),
            PlaceReport(place="outbox", state="erased", items=set_aside),
        )
