import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.auth.rate import RateLimiter, TokenBucket
from server.wire.errors import TooManyRequests


def test_a_burst_and_then_a_steady_rate() -> None:
    bucket = TokenBucket(2.0, 3.0, 0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(0.5), bucket.take(0.5)] == [True, False]
    assert bucket.take(100.0, 3.0)
    assert not bucket.take(99.0)  # a clock that steps back gives nothing


@given(st.lists(st.floats(0, 1), max_size=200))
def test_never_more_than_burst_plus_rate(gaps_s: list[float]) -> None:
    bucket = TokenBucket(5.0, 4.0, 0.0)
    now_s, taken = 0.0, 0
    for gap_s in gaps_s:
        now_s += gap_s
        taken += bucket.take(now_s)
    assert taken <= 4 + 5 * now_s + 1e-6


def test_each_key_has_its_own_bucket() -> None:
    limiter = RateLimiter(1.0, 1.0)
    limiter.check("a", 0.0)
    limiter.check("b", 0.0)
    with pytest.raises(TooManyRequests):
        limiter.check("a", 0.5)
    limiter.check("a", 1.0)


def test_keys_are_bounded_and_full_buckets_are_forgotten() -> None:
    limiter = RateLimiter(1.0, 1.0, max_keys=3)
    for number in range(10):
        limiter.check(number, 0.0)
    assert len(limiter) == 3
    limiter.check("later", 100.0)
    assert len(limiter) == 1
