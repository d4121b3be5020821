"""Leases in Redis, on its clock: acquire, renew, release, and find what a dead process left.

    acquire ──▶ fence + 1, lease for `lease_s` ──▶ renewed four times in that time ──▶ release
                                                       └ not renewed: an orphan, which any process may adopt

A lease that cannot be renewed because Redis is away is kept: nobody else can take it meanwhile, and the fence decides
once Redis answers. Source: the fencing token of M. Kleppmann, "How to do distributed locking", 2016.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from server.log.contract import ChannelKey
from server.log.leases import Elsewhere
from server.log.redis import RedisLog
from server.log.redis_keys import PREFIX, Keys, channel_of
from server.log.redis_link import Script
from server.wire.errors import CuelineError, Unavailable

logger = logging.getLogger(__name__)

OWNED = f"{PREFIX}owned"
"""Sorted set of owned calls by the end of their lease; what lies in the past is an orphan."""

_NOW = "local time = redis.call('TIME') local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"

ACQUIRE = Script(
    _NOW
    + """
-- keys: lease, fence, owned; args: owner, lease ms, fence ms, member, lowest fence, whether owners may still come back
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return {'taken', owner} end
if not owner and ARGV[6] == '1' and tonumber(redis.call('ZSCORE', KEYS[3], ARGV[4]) or 0) > 0 then
    return {'taken', ''}
end
if not owner or not redis.call('GET', KEYS[2]) then
    if redis.call('INCR', KEYS[2]) < tonumber(ARGV[5]) then redis.call('SET', KEYS[2], ARGV[5]) end
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', KEYS[3], now + ARGV[2], ARGV[4])
return {'ok', redis.call('GET', KEYS[2])}
"""
)

RENEW = Script(
    _NOW
    + """
-- keys: owned, then lease and fence of each; args: owner, lease ms, fence ms, then member and fence of each
local lost = {}
for i = 2, #KEYS, 2 do
    local member, fence = ARGV[i + 2], ARGV[i + 3]
    local owner, newest = redis.call('GET', KEYS[i]), redis.call('GET', KEYS[i + 1])
    if (owner and owner ~= ARGV[1]) or (newest and newest ~= fence) then
        lost[#lost + 1] = member
    else
        redis.call('SET', KEYS[i], ARGV[1], 'PX', ARGV[2])
        redis.call('SET', KEYS[i + 1], fence, 'PX', ARGV[3])
        redis.call('ZADD', KEYS[1], now + ARGV[2], member)
    end
end
return lost
"""
)

RELEASE = Script("""
-- keys: lease, owned; args: owner, member, is over
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
if ARGV[3] == '1' then redis.call('ZREM', KEYS[2], ARGV[2]) else redis.call('ZADD', KEYS[2], 0, ARGV[2]) end
return 1
""")

ORPHANS = Script(_NOW + "return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])")

SCRIPTS = (ACQUIRE, RENEW, RELEASE, ORPHANS)
COME_BACK_S = 3.0
"""After Redis was away its owners have so long to come back: longer than the longest pause between two attempts."""
MAX_ORPHANS = 50
"""Calls that one process adopts at a time; the others have their turn with the rest."""


class RedisLeases:
    """`Leases` shared by all processes that share a Redis.

    Args:
        log: The log whose channels are owned.
        name: Of this process and this life, unique.
        address: Where this process takes sockets for its calls, `host:port`.
        lease_s: See above.
        retention_s: How long the fence of a call is remembered.

    Attributes:
        on_lost: Told of a call that another process took; nothing of it may be published here any more.
        on_orphan: Told of a call whose owner is gone; may adopt it. None: this process adopts none.
    """

    is_shared = True

    def __init__(self, log: RedisLog, name: str, address: str, *, lease_s: float, retention_s: float) -> None:
        self.on_lost: Callable[[ChannelKey], None] = lambda _: None
        self.on_orphan: Callable[[ChannelKey], Awaitable[None]] | None = None
        self._log = log
        self._owner = f"{name} {address}"
        self._lease_s = lease_s
        self._retention_ms = int(retention_s * 1000)
        self._fences: dict[ChannelKey, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Renew and look for orphans from now on."""
        self._tasks = [
            asyncio.create_task(self._forever(work), name="redis-leases") for work in (self.renew, self.adopt)
        ]

    async def stop(self) -> None:
        """Renew no more; what is still owned is left to the others."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def acquire(self, key: ChannelKey) -> None:
        """See `Leases`."""
        keys = Keys.of(key)
        verdict, value = await self._log.link.run(
            *ACQUIRE.call(
                (keys.lease, keys.fence, OWNED),
                *(self._owner, int(self._lease_s * 1000), self._retention_ms, keys.stream),
                *(self._fences.get(key, "1"), "1" if self._may_owners_come_back else "0"),
            )
        )
        if verdict == b"taken":
            raise Elsewhere(value.decode().partition(" ")[2])
        self._fences[key] = value.decode()
        try:
            await self._log.own(key, self._fences[key])
        except CuelineError:
            await self.release(key, is_over=False)
            raise

    @property
    def _may_owners_come_back(self) -> bool:
        """While Redis was away all leases ran out; whoever lives renews its own, and puts back what Redis missed."""
        back_s = asyncio.get_running_loop().time() - self._log.link.back_since_s
        return back_s < max(COME_BACK_S, 2 * self._lease_s)

    async def owner(self, key: ChannelKey) -> str | None:
        """Name of the process that owns a call, None if nobody does.

        Raises:
            Unavailable: Redis does not answer.
        """
        lease = await self._log.link.run("GET", Keys.of(key).lease)
        return None if lease is None else str(lease.decode().partition(" ")[0])

    async def whereabouts(self, key: ChannelKey) -> str | None:
        """See `Leases`."""
        lease = await self._log.link.run("GET", Keys.of(key).lease)
        owner = "" if lease is None else lease.decode()
        return owner.partition(" ")[2] if owner and owner != self._owner else None

    async def release(self, key: ChannelKey, *, is_over: bool) -> None:
        """See `Leases`. While Redis is away the lease just runs out."""
        keys = Keys.of(key)
        self._fences.pop(key, None)
        self._log.disown(key)
        try:
            await self._log.link.run(
                *RELEASE.call((keys.lease, OWNED), self._owner, keys.stream, "1" if is_over else "0")
            )
        except Unavailable:
            logger.warning("a lease could not be given back; it runs out")

    async def renew(self) -> None:
        """Renew all leases in one step; tell of those that are lost.

        Raises:
            Unavailable: Redis does not answer.
        """
        held = dict(self._fences)
        if not held:
            return
        names = {key: Keys.of(key) for key in held}
        lost = await self._log.link.run(
            *RENEW.call(
                (OWNED, *(name for keys in names.values() for name in (keys.lease, keys.fence))),
                *(self._owner, int(self._lease_s * 1000), self._retention_ms),
                *(value for key, fence in held.items() for value in (names[key].stream, fence)),
            )
        )
        for member in lost:
            key = channel_of(member.decode())
            # One that was given back meanwhile is not lost.
            if self._fences.get(key) == held[key]:
                logger.warning("a call was taken over by another process")
                del self._fences[key]
                self._log.disown(key)
                self.on_lost(key)

    async def adopt(self) -> None:
        """Offer what dead processes left.

        Raises:
            Unavailable: Redis does not answer.
        """
        if self.on_orphan is None or self._may_owners_come_back:
            return
        for member in await self._log.link.run(*ORPHANS.call((OWNED,), MAX_ORPHANS)):
            key = channel_of(member.decode())
            if key in self._fences:
                continue
            try:
                await self.on_orphan(key)
            except Elsewhere:
                pass  # another process was quicker
            except CuelineError as error:
                logger.warning("an orphaned call could not be adopted", extra={"reason": error.code})

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            # Not in step with the other processes: who looks first adopts.
            await asyncio.sleep(self._lease_s / 4 * random.uniform(0.8, 1.0))
            try:
                await work()
            except Unavailable:
                continue
            except Exception:
                logger.exception("leases could not be looked after")
