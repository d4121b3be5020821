from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from inference.compile.logic import conjunction, cover_members, disjunction, normalise, weaken
from inference.when import ALWAYS, NEVER, Predicate, parse_when
from tests.inference.compile.interpreter import holds

VALUES = {"a": [True, False, None], "b": [True, False, None], "s": ["x", "y", "z", None]}
ROWS = [{"a": a, "b": b, "s": s} for a in VALUES["a"] for b in VALUES["b"] for s in VALUES["s"]]
LEAVES = ["a", "b", "a == true", "s == x", "s == y", "s == z", "s != x", "s != y"]
predicates = st.recursive(
    st.sampled_from(LEAVES).map(parse_when),
    lambda inner: st.one_of(
        inner.map(lambda p: Predicate("not", (p,))),
        st.builds(Predicate, st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


def truth(predicate: Predicate) -> list[bool]:
    return [holds(predicate, row.get) for row in ROWS]


@given(predicates)
def test_the_normal_form_means_the_same(predicate: Predicate) -> None:
    assert truth(normalise(predicate)) == truth(predicate)


@given(predicates)
def test_the_normal_form_is_final_and_reads_back(predicate: Predicate) -> None:
    normal = normalise(predicate)
    assert normalise(normal) == normal
    if normal not in (ALWAYS, NEVER):
        assert normalise(parse_when(str(normal))) == normal


@given(st.lists(predicates, max_size=3), st.randoms())
def test_joins_do_not_depend_on_order(parts: list[Predicate], random: Any) -> None:
    normal = [normalise(part) for part in parts]
    turned = random.sample(normal, len(normal))
    assert conjunction(normal) == conjunction(turned)
    assert disjunction(normal) == disjunction(turned)
    assert truth(conjunction(normal)) == [all(row) for row in zip(*map(truth, normal), strict=True)] or not normal


@given(predicates, st.sets(st.sampled_from(list(VALUES))))
def test_a_weakened_condition_holds_whenever_the_whole_does(predicate: Predicate, known: set[str]) -> None:
    weak = weaken(normalise(predicate), known.__contains__)
    assert weak.names() <= known
    assert all(w or not p for w, p in zip(truth(weak), truth(predicate), strict=True))


@given(predicates)
def test_covering_members_changes_nothing_for_present_inputs(predicate: Predicate) -> None:
    covered = cover_members(normalise(predicate), {"s": ("x", "y", "z"), "a": "bool"})
    for row in ROWS:
        if row["s"] is not None:
            assert holds(covered, row.get) == holds(predicate, row.get)


def test_examples() -> None:
    def text(when: str) -> str:
        return str(normalise(parse_when(when)))

    assert text("b and a and b") == "a and b"
    assert text("a or (a and b)") == "a"
    assert text("not (a or not b)") == "b and not a"
    assert text("a and not a") == "never"
    assert text("a or not a") == "always"
    assert text("s == x and s == y") == "never"
    assert text("s == x or s == y") == "s == x or s == y"
    assert text("not s == x") == "not (s == x)"
    two = normalise(parse_when("s == x or s == y"))
    assert cover_members(two, {"s": ("x", "y")}) == ALWAYS
    assert cover_members(two, {"s": ("x", "y", "z")}) == two
    none = normalise(parse_when("s != x and not s == y"))
    assert cover_members(none, {"s": ("x", "y")}) == NEVER
    assert cover_members(none, {"s": ("x", "y", "z")}) == none
