"""Places that have something of a conversation, besides the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from server.log.contract import ChannelKey, EventLog
from server.wire.ids import ConversationId, TenantId, call_channel


class EventLogPlace:
    """The call's channel: its publications and snapshots. Readers start anew, in another epoch.

    Args:
        log: The event log.
    """

    name = "event_log"

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def erase(self, tenant_id: TenantId, conversation_id: str) -> int:
        """See `Place`; items are publications."""
        key = ChannelKey(tenant_id, call_channel(ConversationId(conversation_id)))
        return await self._log.trim(key)


async def nobody() -> None:
    """There is no other process."""


class CachePlace:
    """A cache that does not know whose words are in it: it is emptied, in every process.

    Args:
        name: As the receipt calls it.
        clear: Empties it here; how many entries that were.
        ask_others: Has the other processes empty theirs.
    """

    def __init__(self, name: str, clear: Callable[[], int], ask_others: Callable[[], Awaitable[None]] = nobody) -> None:
        self.name = name
        self._clear = clear
        self._ask_others = ask_others

    async def erase(self, tenant_id: TenantId, conversation_id: str) -> int:
        """See `Place`; items are those that were here."""
        await self._ask_others()
        return self._clear()
