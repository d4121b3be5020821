"""What agents did with cards: checked, told to the live call, and kept.

receipt ──▶ was there such a card? ──▶ live call (attention, cool-downs) · outbox · metric
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Literal, Protocol

from server.auth.identity import Identity
from server.log.contract import ChannelKey, EventLog
from server.metrics import Metrics
from server.store.contract import ReceiptRecord, Record, Store
from server.wire.clock import wall_ms
from server.wire.errors import NotFound, Unavailable
from server.wire.feed import Receipt
from server.wire.ids import TenantId

DRAINED_WITHIN_S = 2.0
"""A card is in the store this long after it was published, or the store is away."""


class LiveReceipts(Protocol):
    """The live calls."""

    def receipt(
        self,
        tenant_id: TenantId,
        conversation_id: str,
        action_id: str,
        event: Literal["shown", "used", "dismissed", "wrong"],
    ) -> None:
        """Tell a live call what became of a card."""


class Records(Protocol):
    """The outbox."""

    def put(self, record: Record) -> Awaitable[None]:
        """Take a record; done once it is durable."""

    async def drained(self) -> None:
        """Wait until the store has everything put so far."""


class Receipts:
    """Takes the receipts of all feeds.

    Args:
        calls: Live calls.
        log: Has the cards that are on screens.
        store: Has those that were.
        outbox: Where receipts go.
        metrics: Counts.
    """

    def __init__(self, calls: LiveReceipts, log: EventLog, store: Store, outbox: Records, metrics: Metrics) -> None:
        self._calls = calls
        self._log = log
        self._store = store
        self._outbox = outbox
        self._metrics = metrics

    async def take(self, identity: Identity, key: ChannelKey, receipt: Receipt) -> None:
        """Take one of somebody who may send it.

        Raises:
            NotFound: The call never showed such a card.
            Unavailable: It cannot be kept at present.
        """
        conversation_id = key.channel.partition(":")[2]
        if not await self._is_known(key, conversation_id, receipt.id):
            raise NotFound("the call has no such card", field="id")
        self._calls.receipt(key.tenant_id, conversation_id, receipt.id, receipt.event)
        await self._outbox.put(
            ReceiptRecord(
                tenant_id=key.tenant_id,
                conversation_id=conversation_id,
                action_id=receipt.id,
                event=receipt.event,
                agent_id=identity.agent_id,
                at_ms=wall_ms(),
                painted_at_ms=receipt.painted_at_ms,
            )
        )
        self._metrics.receipts.labels(receipt.event).inc()

    async def _is_known(self, key: ChannelKey, conversation_id: str, action_id: str) -> bool:
        recovery = await self._log.recover(key, None)
        if any(entry.kind == "action" and entry.key == action_id for entry in recovery.snapshot):
            return True
        try:
            if await self._store.has_action(key.tenant_id, conversation_id, action_id):
                return True
            # It may have come and gone within the moment that the store is behind.
            async with asyncio.timeout(DRAINED_WITHIN_S):
                await self._outbox.drained()
            return await self._store.has_action(key.tenant_id, conversation_id, action_id)
        except (Unavailable, TimeoutError):
            return True  # better kept once too often than lost because the store is away
