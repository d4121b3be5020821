from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.plan import Condition, Slot
from inference.program import compile_condition

A, B = Slot(0), Slot(1)


def leaf(kind: str, constant: Any = None, slot: Slot = A, path: tuple[str, ...] = ()) -> Condition:
    return Condition(kind, slot=slot, path=path, constant=constant)


@pytest.mark.parametrize(
    ("condition", "values", "expected"),
    [
        (leaf("==", "customer"), ["customer", None], True),
        (leaf("==", "customer"), ["agent", None], False),
        (leaf("!=", "customer"), ["agent", None], True),
        (leaf("!=", "customer"), [None, None], False),
        (leaf("truthy"), [True, None], True),
        (leaf("truthy"), [None, None], False),
        (leaf("truthy", path=("is_question",)), [{"is_question": True}, None], True),
        (leaf("truthy", path=("is_question",)), [None, None], False),
        (leaf(">", 0.5, path=("score",)), [{"score": 0.6}, None], True),
        (leaf(">=", 0.5, path=("score",)), [{"score": 0.5}, None], True),
        (leaf("<", 0.5, path=("score",)), [{"score": 0.5}, None], False),
        (leaf("<=", 0.5, path=("a", "b")), [{"a": {"b": 0.5}}, None], True),
        (leaf("<", 0.5, path=("a", "b")), [{"a": 3}, None], False),
        (leaf("<", 0.5), ["a word", None], False),
        (Condition("and"), [None, None], True),
        (Condition("or"), [None, None], False),
        (Condition("and", (leaf("truthy"), leaf("truthy", slot=B))), [True, False], False),
        (Condition("or", (leaf("truthy"), leaf("truthy", slot=B))), [True, False], True),
        (Condition("not", (leaf("==", 1.0),)), [None, None], True),
    ],
)
def test_conditions(condition: Condition, values: list[Any], expected: bool) -> None:
    assert compile_condition(condition)(values) is expected


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="xor"):
        compile_condition(Condition("xor", slot=A))


conditions = st.recursive(
    st.builds(
        leaf,
        st.sampled_from(["==", "!=", "<", ">=", "truthy"]),
        st.one_of(st.booleans(), st.floats(0, 1), st.just("x")),
        st.sampled_from([A, B]),
        st.sampled_from([(), ("k",)]),
    ),
    lambda inner: st.one_of(
        st.builds(
            lambda ops, kind: Condition(kind, tuple(ops)), st.lists(inner, max_size=3), st.sampled_from(["and", "or"])
        ),
        st.builds(lambda one: Condition("not", (one,)), inner),
    ),
    max_leaves=8,
)
values = st.one_of(
    st.none(), st.booleans(), st.floats(0, 1), st.just("x"), st.dictionaries(st.just("k"), st.floats(0, 1))
)


@given(conditions, st.tuples(values, values))
def test_no_condition_ever_raises(condition: Condition, row: tuple[Any, Any]) -> None:
    assert compile_condition(condition)(row) in (True, False)
