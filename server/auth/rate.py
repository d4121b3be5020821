"""Token buckets: how often someone may do something. Pure, given `now_s`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from server.wire.errors import TooManyRequests


class TokenBucket:
    """Allows bursts up to its size and a steady rate after them.

    Args:
        rate_per_s: Tokens that come back each second.
        burst: Tokens it holds; it starts full.
        now_s: Monotonic time of its start.
    """

    __slots__ = ("_at_s", "_burst", "_rate_per_s", "_tokens")

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at_s = now_s

    def take(self, now_s: float, tokens: float = 1.0) -> bool:
        """Take tokens if they are there; a clock that steps back gives none."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now_s - self._at_s) * self._rate_per_s)
        self._at_s = max(self._at_s, now_s)
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def is_full(self, now_s: float) -> bool:
        """Whether nothing would be lost if the bucket were forgotten."""
        return self._tokens + (now_s - self._at_s) * self._rate_per_s >= self._burst


class RateLimiter:
    """One bucket for each key (an identity, an address), bounded in number.

    Args:
        rate_per_s: Steady rate of one key.
        burst: Burst of one key.
        max_keys: Keys remembered. Beyond them full buckets go first, then the least recently used one.
    """

    def __init__(self, rate_per_s: float, burst: float, *, max_keys: int = 10_000) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._max_keys = max_keys
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def check(self, key: Hashable, now_s: float) -> None:
        """Count one request of `key`.

        Raises:
            TooManyRequests: Over its rate.
        """
        bucket = self._buckets.get(key)
        if bucket is None:
            self._make_room(now_s)
            bucket = self._buckets[key] = TokenBucket(self._rate_per_s, self._burst, now_s)
        self._buckets.move_to_end(key)
        if not bucket.take(now_s):
            raise TooManyRequests("too many requests")

    def __len__(self) -> int:
        """Keys remembered."""
        return len(self._buckets)

    def _make_room(self, now_s: float) -> None:
        while self._buckets:
            oldest = next(iter(self._buckets))
            if len(self._buckets) < self._max_keys and not self._buckets[oldest].is_full(now_s):
                break
            del self._buckets[oldest]
