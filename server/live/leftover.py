"""Calls that an earlier life of this process left without an end: taken up again, so that no agent's list keeps them.

store: began and did not end ─▶ adopt ─▶ its source comes back, or the call ends after the grace period

Processes that share a log find what a dead one left by its leases; this is for the only process of an embedded one. The
store knows of every call: one that begins is in its outbox before anybody is told of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from server.live.calls import LiveCalls
from server.log.contract import ChannelKey
from server.store.contract import Store
from server.wire.errors import CuelineError
from server.wire.ids import ConversationId, TenantId, call_channel

log = logging.getLogger(__name__)

MAX_CALLS = 1000
"""Of a tenant; more than one process ever has."""


class Drained(Protocol):
    """The outbox."""

    async def drained(self) -> None:
        """Return once the store has everything put so far. Raises `Unavailable`."""


async def adopt_leftovers(calls: LiveCalls, store: Store, outbox: Drained, tenants: Iterable[str]) -> None:
    """Take up what is left; a store that is away leaves it to the next start."""
    try:
        await outbox.drained()
        for tenant_id in map(TenantId, tenants):
            for record in await store.unended(tenant_id, MAX_CALLS):
                await calls.adopt(ChannelKey(tenant_id, call_channel(ConversationId(record.conversation_id))), record)
    except CuelineError as error:
        log.warning("calls without an end are left as they are", extra={"reason": error.code})
