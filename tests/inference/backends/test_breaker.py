from __future__ import annotations

import random

from inference.backends.breaker import Breaker, BreakerSettings, State, Verdict

DONE, FAILED, GONE, UNDECIDED = Verdict.DONE, Verdict.FAILED, Verdict.GONE, Verdict.UNDECIDED


def call(breaker: Breaker, now_s: float, verdict: Verdict) -> bool:
    """Make a call if the breaker lets it through; return whether it did."""
    ticket = breaker.admit(now_s)
    if ticket is not None:
        breaker.record(ticket, now_s, verdict)
    return ticket is not None


def opened(settings: BreakerSettings | None = None) -> Breaker:
    breaker = Breaker(settings)
    breaker.open(100.0)
    return breaker


def test_it_opens_at_a_fifth_of_fifty_calls_failed_and_not_before() -> None:
    breaker = Breaker()
    verdicts = [FAILED if n % 5 == 0 else DONE for n in range(50)]
    for n, verdict in enumerate(verdicts):
        assert breaker.state is State.CLOSED, n
        assert call(breaker, n * 0.1, verdict)
    assert breaker.state is State.OPEN


def test_fewer_failures_never_open_it() -> None:
    breaker = Breaker()
    for n in range(1000):
        call(breaker, n * 0.1, FAILED if n % 6 == 0 else DONE)
    assert breaker.state is State.CLOSED


def test_failures_leave_the_window() -> None:
    breaker = Breaker()
    for _ in range(40):
        call(breaker, 0.0, FAILED)
    for n in range(100):
        call(breaker, 21.0 + n * 0.01, DONE)
    assert breaker.state is State.CLOSED


def test_three_unanswered_calls_in_a_row_open_it() -> None:
    breaker = Breaker()
    for verdict in (GONE, GONE, DONE, GONE, GONE, FAILED, GONE, GONE):
        call(breaker, 1.0, verdict)
    assert breaker.state is State.CLOSED
    call(breaker, 1.0, GONE)
    assert breaker.state is State.OPEN


def test_calls_without_a_verdict_leave_no_trace() -> None:
    breaker = Breaker()
    for verdict in (GONE, GONE, UNDECIDED):
        call(breaker, 1.0, verdict)
    assert breaker.state is State.CLOSED
    call(breaker, 1.0, GONE)
    assert breaker.state is State.OPEN


def test_open_lets_nothing_through_for_its_time() -> None:
    breaker = opened()
    assert not any(call(breaker, 100.0 + n * 0.1, DONE) for n in range(50))
    assert call(breaker, 105.0, DONE)
    assert breaker.state is State.HALF_OPEN


def test_a_twentieth_of_the_calls_try_it_and_three_successes_close_it() -> None:
    breaker = opened()
    through = [call(breaker, 105.0 + n * 0.001, DONE) for n in range(60)]
    assert [n for n, was_sent in enumerate(through) if was_sent][:3] == [0, 20, 40]
    assert breaker.state is State.CLOSED
    assert all(through[41:])


def test_few_calls_try_it_once_a_second() -> None:
    breaker = opened()
    sent = [call(breaker, 105.0 + n * 0.5, DONE) for n in range(5)]
    assert sent == [True, False, True, False, True]
    assert breaker.state is State.CLOSED


def test_one_trial_at_a_time() -> None:
    breaker = opened()
    ticket = breaker.admit(105.0)
    assert ticket is not None
    assert not any(breaker.admit(106.0 + n) is not None for n in range(100))
    breaker.record(ticket, 300.0, DONE)
    assert breaker.admit(301.0) is not None


def test_a_failed_trial_opens_it_for_twice_as_long_up_to_a_minute() -> None:
    breaker, now_s = opened(), 100.0
    for open_s in (5.0, 10.0, 20.0, 40.0, 60.0, 60.0):
        assert not call(breaker, now_s + open_s - 0.1, DONE)
        now_s += open_s
        assert call(breaker, now_s, GONE)
        assert breaker.state is State.OPEN


def test_closing_forgets_how_long_it_was_open() -> None:
    breaker = opened()
    call(breaker, 105.0, GONE)
    for n in range(3):
        assert call(breaker, 116.0 + n, DONE)
    assert breaker.state is State.CLOSED
    breaker.open(200.0)
    assert call(breaker, 205.0, DONE)


def test_an_undecided_trial_makes_room_for_the_next() -> None:
    breaker = opened()
    assert call(breaker, 105.0, UNDECIDED)
    assert breaker.state is State.HALF_OPEN
    assert call(breaker, 106.0, DONE)


def test_calls_of_an_earlier_period_count_for_nothing() -> None:
    breaker = Breaker()
    early = breaker.admit(0.0)
    assert early is not None
    breaker.open(1.0)
    trial = breaker.admit(6.0)
    breaker.record(early, 6.1, GONE)
    assert breaker.state is State.HALF_OPEN
    assert trial is not None
    assert breaker.admit(8.0) is None, "the trial is still under way"


def test_any_history_leaves_it_able_to_recover() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        breaker, now_s = Breaker(), 0.0
        for _ in range(300):
            now_s += rng.expovariate(5.0)
            call(breaker, now_s, rng.choice([DONE, DONE, FAILED, GONE, UNDECIDED]))
        for _ in range(200):
            now_s += 1.0
            call(breaker, now_s, DONE)
        assert breaker.state is State.CLOSED
