from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.transcript.spans import Spans

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


@given(added=SPANS, asked=st.tuples(st.integers(0, 60), st.integers(0, 60)))
def test_equals_a_set_of_milliseconds(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    spans, model = Spans(), set[int]()
    for start_ms, end_ms in added:
        spans.add(start_ms, end_ms)
        model |= set(range(start_ms, end_ms))
    assert spans.overlap_ms(*asked) == len(model & set(range(*asked)))
    assert all((at_ms in spans) == (at_ms in model) for at_ms in range(61))
    num_runs = sum(1 for at_ms in model if at_ms - 1 not in model)
    assert len(spans) == num_runs
