"""Customer words between a publication in memory and a value in Redis.

    body, memory, question ──sealed by the tenant's key, bound to the channel──▶ Redis ──▶ opened where it is read

Offset, kind and key of an entry stay readable: scripts keep order and snapshot by them, and no word is in them. Without
a keyring a body is the plain JSON; its first byte tells them apart. With one, what is not sealed is not believed:
whoever can write to Redis would put words on agents' screens.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from msgspec import structs

from server.keys.keyring import SEALED, Keyring
from server.log.contract import ChannelKey, Entry
from server.log.redis_keys import Keys
from server.wire.errors import Unavailable

logger = logging.getLogger(__name__)


class Seal:
    """Seals and opens what is a channel's.

    Args:
        keys: None: in Redis as in memory.
        place: What of the channel's it is; sealed for one place it opens in no other.
    """

    def __init__(self, keys: Keyring | None, place: str = "log") -> None:
        self._keys = keys
        self._place = place

    def close(self, key: ChannelKey, plain: bytes) -> bytes:
        """As it lies in Redis; nothing stays nothing.

        Raises:
            Gone: The tenant's key was destroyed.
            Unavailable: No key is at hand.
        """
        return self._keys.seal(key.tenant_id, plain, self._context(key)) if self._keys is not None and plain else plain

    async def open(self, key: ChannelKey, value: bytes) -> bytes:
        """The other way.

        Raises:
            Gone: The tenant's key was destroyed.
            Unavailable: The key is not at hand now, or the value was not sealed for this channel.
        """
        if self._is_plain(value):
            return value
        if self._keys is None:
            raise Unavailable("this channel is sealed, and this process has no keys")
        try:
            return await self._keys.open(value, self._context(key))
        except ValueError:
            logger.error("somebody else wrote to the event log", extra={"tenant": key.tenant_id, "place": self._place})
            raise Unavailable("a value of the event log was not sealed for its channel") from None

    async def opened(self, key: ChannelKey, entries: Iterable[Entry]) -> tuple[Entry, ...]:
        """Entries as they were before Redis. Raises as `open`."""
        return tuple([structs.replace(entry, body=await self.open(key, entry.body)) for entry in entries])

    def opened_now(self, key: ChannelKey, entry: Entry) -> Entry | None:
        """An entry as it was before Redis, without waiting; None: not possible now, so read it from the stream."""
        plain = self.open_now(key, entry.body)
        return None if plain is None else structs.replace(entry, body=plain)

    def open_now(self, key: ChannelKey, value: bytes) -> bytes | None:
        """As `open`, without waiting; None: its key is not in memory, or it does not open."""
        if self._is_plain(value):
            return value
        return None if self._keys is None else self._keys.open_now(value, self._context(key))

    def _is_plain(self, value: bytes) -> bool:
        return not value or (self._keys is None and value[:1] != bytes([SEALED]))

    def _context(self, key: ChannelKey) -> bytes:
        return f"{self._place}/{Keys.of(key).stream}".encode()
