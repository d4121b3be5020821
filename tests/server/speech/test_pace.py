from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.speech.pace import Pace


def test_a_free_machine_takes_what_fits_the_budget() -> None:
    pace = Pace(workers=1, budget_s=0.6)
    assert pace.ask(2.0, 0.0)  # (2 + 2) x 0.15 = 0.6
    assert not pace.ask(1.0, 0.1), "the first is not done"
    pace.answered(2.0, 0.2)
    assert pace.ask(3.0, 1.0), "a quick answer makes room for longer ones"


def test_two_workers_take_more() -> None:
    taken = {}
    for workers in (1, 2):
        pace = Pace(workers, budget_s=0.6)
        assert pace.ask(1.0, 0.0)
        pace.answered(1.0, 0.1)
        taken[workers] = [pace.ask(1.0, 1.0) for _ in range(4)]
    assert taken == {1: [True, False, False, False], 2: [True, True, False, False]}


def test_a_machine_without_time_is_asked_now_and_then() -> None:
    pace = Pace(workers=1, budget_s=0.6)
    assert pace.ask(1.0, 0.0)
    pace.answered(1.0, 30.0)
    asked = [now_s for now_s in range(1, 61) if pace.ask(1.0, float(now_s)) and not pace.answered(1.0, 30.0)]
    assert asked == [15, 30, 45, 60]


def test_a_machine_that_is_free_again_is_noticed() -> None:
    pace = Pace(workers=1, budget_s=0.6)
    pace.ask(1.0, 0.0)
    pace.answered(1.0, 2.0)
    for now_s in range(20, 200, 20):
        if pace.ask(1.0, float(now_s)):
            pace.answered(1.0, 0.1)
    assert pace.ask(1.0, 200.0)
    pace.failed(1.0)
    assert pace.ask(1.0, 200.1)


@given(st.lists(st.tuples(st.floats(0.1, 12), st.floats(0.01, 5)), max_size=40))
def test_what_was_answered_counts_no_more(asked: list[tuple[float, float]]) -> None:
    pace = Pace(workers=1, budget_s=0.6)
    for now_s, (length_s, took_s) in enumerate(asked):
        if pace.ask(length_s, now_s):
            pace.answered(length_s, took_s)
    assert pace.ask(100.0, 1e6), "nothing is out, so a probe is due"
