"""Places that have something of a conversation, besides the store."""

from __future__ import annotations

from collections.abc import Callable

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


class CachePlace:
    """A cache that does not know whose words are in it: it is emptied.

    Args:
        name: As the receipt calls it.
        clear: Empties it; how many entries that were.
    """

    def __init__(self, name: str, clear: Callable[[], int]) -> None:
        self.name = name
        self._clear = clear

    async def erase(self, tenant_id: TenantId, conversation_id: str) -> int:
        """See `Place`."""
        return self._clear()
