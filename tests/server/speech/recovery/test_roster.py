from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from server.speech.recovery.roster import Roster
from server.speech.recovery.settings import RecoverySettings

SETTINGS = RecoverySettings()


def roster(size: int = 1, draw: float = 1.0) -> Roster:
    return Roster(size, SETTINGS, lambda: draw)


def test_the_first_attempt_is_at_once_and_the_others_back_off_to_a_cap() -> None:
    chain, now_s, waits = roster(), 100.0, []
    for _ in range(5):
        index, at_s = chain.next(now_s)
        waits.append(round(at_s - now_s, 3))
        chain.failed(index, now_s)
    assert waits == [0, 0.2, 0.4, 0.8, 1.5]


@given(st.floats(0, 1), st.integers(0, 4))
def test_jitter_is_full(draw: float, failures: int) -> None:
    chain = roster(draw=draw)
    for _ in range(failures):
        chain.failed(0, 0.0)
    _, at_s = chain.next(0.0)
    assert 0 <= at_s <= draw * SETTINGS.backoff_cap_s + 1e-9


def test_five_attempts_or_five_seconds_then_the_next_one() -> None:
    chain = roster(2)
    for _ in range(5):
        assert chain.next(0.0)[0] == 0
        chain.failed(0, 0.0)
    assert chain.next(0.0) == (1, 0.0)
    assert not chain.is_exhausted(0.0)
    slow = roster(2)
    slow.failed(0, 0.0)
    slow.failed(0, 5.0)
    assert slow.next(5.0) == (1, 5.0)


def test_a_rested_one_is_preferred_again() -> None:
    chain = roster(2)
    for _ in range(5):
        chain.failed(0, 0.0)
    assert chain.next(SETTINGS.rest_s - 0.1)[0] == 1
    assert chain.next(SETTINGS.rest_s) == (0, SETTINGS.rest_s)


def test_when_all_rest_they_are_tried_in_turn() -> None:
    chain = roster(2)
    for index in (0, 1):
        for _ in range(5):
            chain.failed(index, float(index))
    assert chain.is_exhausted(1.0)
    turns = []
    for now_s in (2.0, 3.0, 4.0):
        index, at_s = chain.next(now_s)
        assert at_s <= now_s + SETTINGS.backoff_cap_s
        chain.failed(index, now_s)
        turns.append(index)
    assert turns == [0, 1, 0]


def test_three_quick_failures_in_a_row_are_one_too_many() -> None:
    chain = roster(2)
    for now_s in (0.0, 10.0, 20.0):
        assert chain.next(now_s)[0] == 0
        chain.opened(0, now_s)
        chain.lost(0, now_s + 4.9)
    assert chain.next(25.0)[0] == 1


def test_a_long_life_forgives() -> None:
    chain = roster(2)
    for now_s in (0.0, 10.0, 20.0, 30.0):
        chain.opened(0, now_s)
        chain.lost(0, now_s + (4.9 if now_s != 10.0 else 6.0))
    assert chain.next(35.0)[0] == 0


def test_who_refuses_is_never_asked_again() -> None:
    chain = roster(2)
    chain.refuse(0)
    assert chain.next(0.0) == (1, 0.0)
    chain.refuse(1)
    assert chain.next(0.0)[1] == math.inf
    assert chain.is_exhausted(0.0)
