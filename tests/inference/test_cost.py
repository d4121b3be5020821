import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.cost import CostModel

LINE = [(n, 1e-4 * n + 5e-4) for n in (8, 16, 64, 256)]
"""Tokens and seconds of batches."""


def calibrated() -> CostModel:
    cost = CostModel()
    cost.calibrate(LINE)
    return cost


def run(cost: CostModel, *, batches: int, slowness: float) -> None:
    """Observe batches of all lengths, each so many times as slow as it was calibrated."""
    for number in range(batches):
        tokens, duration_s = LINE[number % len(LINE)]
        cost.observe(tokens, slowness * duration_s)


def test_a_line_is_found_again() -> None:
    cost = calibrated()
    assert cost.a_s == pytest.approx(1e-4)
    assert cost.b_s == pytest.approx(5e-4)
    assert cost.predict_s(100) == pytest.approx(0.0105)


def test_a_slower_machine_is_followed_within_a_hundred_batches() -> None:
    cost = calibrated()
    run(cost, batches=100, slowness=4.0)
    assert cost.predict_s(100) == pytest.approx(4 * 0.0105, rel=0.3)


def test_a_long_day_does_not_make_it_slow_to_learn() -> None:
    cost = calibrated()
    run(cost, batches=5_000, slowness=1.0)
    run(cost, batches=100, slowness=4.0)
    assert cost.predict_s(100) == pytest.approx(4 * 0.0105, rel=0.3)


def test_a_new_calibration_forgets_what_was_learned() -> None:
    cost = CostModel()
    for _ in range(100):
        cost.observe(64, 1.0)
    cost.calibrate(LINE)
    assert cost.predict_s(64) == pytest.approx(1e-4 * 64 + 5e-4)


def test_a_batch_never_looks_free_beside_its_tokens() -> None:
    """Noise alone fits a line through the origin, and single rows would look as cheap as full batches."""
    cost = CostModel()
    cost.calibrate((n, 1e-4 * n) for n in (8, 16, 64, 256))
    assert cost.b_s == pytest.approx(4.0 * cost.a_s)
    assert cost.predict_s(256) == pytest.approx(256e-4, rel=0.1)


def test_one_pause_moves_the_line_little() -> None:
    cost = calibrated()
    cost.observe(64, 10.0)
    assert cost.predict_s(64) < 2 * (1e-4 * 64 + 5e-4)


def test_traffic_of_one_size_keeps_the_warmup_slope() -> None:
    cost = calibrated()
    for _ in range(1000):
        cost.observe(64, 1e-4 * 64 + 5e-4)
    assert cost.a_s == pytest.approx(1e-4, rel=1e-3)


@given(st.lists(st.tuples(st.integers(1, 4096), st.floats(0.0, 100.0)), max_size=50))
def test_never_negative_nor_undefined(observations: list[tuple[int, float]]) -> None:
    cost = CostModel()
    for n, duration_s in observations:
        cost.observe(n, duration_s)
        assert cost.a_s >= 0.0
        assert cost.b_s >= 0.0
        assert cost.predict_s(n) >= 0.0
