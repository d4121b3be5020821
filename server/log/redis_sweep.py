"""What Redis holds, kept within bounds: by age, and by the share of its memory."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from server.log.contract import ChannelKey
from server.log.redis_held import RedisLimits
from server.log.redis_keys import INDEX, Keys, channel_of
from server.log.redis_link import RedisLink

MAX_A_SWEEP = 100
"""Channels that one sweep looks at; the next one goes on with those that are then the oldest."""


async def sweep(link: RedisLink, limits: RedisLimits, trim: Callable[[ChannelKey], Awaitable[int]]) -> int:
    """Forget what is older than the retention, and, while Redis is nearly full, what is longest unused.

    A call that somebody owns is never forgotten. Returns how many channels were forgotten for room.

    Raises:
        Unavailable: Redis does not answer.
    """
    oldest_ms = int((time.time() - limits.retention_s) * 1000)
    await link.run("ZREMRANGEBYSCORE", INDEX, "-inf", oldest_ms)
    num = 0
    for stream in await link.run("ZRANGE", INDEX, 0, MAX_A_SWEEP - 1):
        memory = await link.run("INFO", "memory")
        facts = dict(line.split(":", 1) for line in memory.decode().splitlines() if ":" in line)
        most = int(facts["maxmemory"]) * limits.max_memory_share
        if not most or int(facts["used_memory"]) <= most:
            break
        key = channel_of(stream.decode())
        if not await link.run("EXISTS", Keys.of(key).lease):
            await trim(key)
            num += 1
    return num
