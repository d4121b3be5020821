import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.cost import CostModel


def test_a_line_is_found_again() -> None:
    cost = CostModel()
    cost.calibrate((n, 1e-4 * n + 5e-4) for n in (8, 16, 64, 256))
    assert cost.a_s == pytest.approx(1e-4)
    assert cost.b_s == pytest.approx(5e-4)
    assert cost.predict_s(100) == pytest.approx(0.0105)


def test_a_slower_machine_is_followed_within_a_hundred_batches() -> None:
    cost = CostModel()
    cost.calibrate((n, 1e-4 * n + 5e-4) for n in (8, 16, 64, 256))
    for i in range(100):
        n = (8, 16, 64, 256)[i % 4]
        cost.observe(n, 4.0 * (1e-4 * n + 5e-4))
    assert cost.predict_s(100) == pytest.approx(4 * 0.0105, rel=0.3)


def test_one_pause_moves_the_line_little() -> None:
    cost = CostModel()
    cost.calibrate((n, 1e-4 * n + 5e-4) for n in (8, 16, 64, 256))
    cost.observe(64, 10.0)
    assert cost.predict_s(64) < 2 * (1e-4 * 64 + 5e-4)


def test_traffic_of_one_size_keeps_the_warmup_slope() -> None:
    cost = CostModel()
    cost.calibrate((n, 1e-4 * n + 5e-4) for n in (8, 16, 64, 256))
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
