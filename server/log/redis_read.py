"""What a channel's stream, snapshot and memory in Redis say, opened and in order."""

from __future__ import annotations

from collections.abc import Callable

from server.log.channel import new_epoch
from server.log.contract import ChannelKey, Entry, Position, Recovery
from server.log.redis_held import RedisLimits
from server.log.redis_keys import Keys, entry_of_push, entry_of_stream
from server.log.redis_link import LIFE, RedisLink
from server.log.redis_scripts import READ, RECOVER
from server.log.redis_seal import Seal
from server.wire.errors import Conflict
from server.wire.publication import Kind

EMPTY_CHANNEL_S = 3600.0
"""How long Redis remembers the epoch of a channel that was asked for and never written."""


class RedisReader:
    """Reads. All raise `Unavailable` while Redis does not answer, and `Gone` once the tenant's key is destroyed.

    Args:
        link: Connection.
        limits: Bounds.
        seal: Opens what is read.
        now_s: Monotonic clock.
    """

    def __init__(self, link: RedisLink, limits: RedisLimits, seal: Seal, now_s: Callable[[], float]) -> None:
        self._link = link
        self._limits = limits
        self._seal = seal
        self._now_s = now_s

    async def recover(self, key: ChannelKey, after: Position | None) -> tuple[Recovery, bool]:
        """Complete tail after a known position, else snapshot; and whether that is of an earlier life of the server."""
        keys = Keys.of(key)
        how, epoch_bytes, last, _floor, items = await self._link.run(
            *RECOVER.call(
                (keys.stream, keys.states, keys.meta),
                *(LIFE, after.epoch if after else "", after.offset if after else 0),
                *(self._limits.max_recovery_entries, new_epoch(), int(EMPTY_CHANNEL_S * 1000)),
            )
        )
        epoch, now_s = epoch_bytes.decode(), self._now_s()
        position = Position(epoch, int(last))
        if how == b"tail":
            tail = await self._seal.opened(key, (entry_of_stream(epoch, item, now_s) for item in items))
            return Recovery(position=position, recovered=True, snapshot=(), tail=tail), False
        opened = await self._seal.opened(key, (entry_of_push(item, now_s) for item in items))
        states = tuple(sorted(opened, key=lambda entry: entry.position.offset))
        return Recovery(position=position, recovered=False, snapshot=states, tail=()), how == b"stale"

    async def memory(self, key: ChannelKey) -> bytes:
        """See `EventLog`."""
        return await self._seal.open(key, await self._link.run("GET", Keys.of(key).memory) or b"")

    async def newest(self, key: ChannelKey, kind: Kind, state: str) -> Entry | None:
        """The newest entry of one state, without reading the others; None if there is none."""
        data = await self._link.run("HGET", Keys.of(key).states, f"{kind}/{state}")
        return None if data is None else (await self._seal.opened(key, [entry_of_push(data, self._now_s())]))[0]

    async def read(self, key: ChannelKey, after: Position | None, limit: int) -> tuple[Entry, ...]:
        """Up to `limit` entries after a position (None: from the oldest held on), in order and without holes.

        Raises:
            Conflict: The position is of another epoch, or what followed it is no longer held.
        """
        keys = Keys.of(key)
        how, *found = await self._link.run(
            *READ.call(
                (keys.stream, keys.meta),
                *(LIFE, after.epoch if after else "", after.offset if after else 0, limit),
            )
        )
        if how == b"unknown" or (how == b"none" and after is not None):
            raise Conflict("the position is no longer held", field="after")
        if how == b"none":
            return ()
        epoch, items = found
        now_s = self._now_s()
        return await self._seal.opened(key, (entry_of_stream(epoch.decode(), item, now_s) for item in items))
