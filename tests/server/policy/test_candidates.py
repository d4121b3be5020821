"""No moment that holds is passed over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from server.policy.conditions import Claim, Judge, View
from server.policy.rulebook import RuleBook
from server.policy.rules import KEEP_MARGIN, AllOf, AnyOf, Condition, Lexical, Moment, OutputIs, Semantic
from server.policy.words import compile_pattern
from tests.examples import examples
from tests.server.policy.script import policy_of

WORDS = ("light", "refund", "sorry")
PATHS = tuple(f"moments.{word}" for word in WORDS)
LABELS = ("negative", "neutral")

score = st.sampled_from([0.0, 0.35, 0.5, 0.65, 0.9])
leaf = st.one_of(
    st.sampled_from(WORDS).map(lambda word: Lexical(f"words.{word}", (compile_pattern(word),))),
    st.sampled_from(PATHS).map(lambda path: Semantic(path, ("phrase",))),
    st.builds(
        OutputIs, st.just("o"), st.just("sentiment"), st.sampled_from([frozenset({label}) for label in LABELS]), score
    ),
    st.builds(OutputIs, st.just("p"), st.sampled_from(["dissatisfied", "question"]), st.just(frozenset[str]()), score),
)
condition: st.SearchStrategy[Condition] = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: AnyOf("any", tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: AllOf("all", tuple(parts))),
    ),
    max_leaves=5,
)
claims = st.fixed_dictionaries(
    {},
    optional={
        "moments": st.lists(
            st.builds(lambda path, value: {"label": path, "score": value}, st.sampled_from(PATHS), score)
        ),
        "sentiment": st.one_of(
            st.none(),
            st.builds(lambda label, value: [{"label": label, "score": value}], st.sampled_from(LABELS), score),
            st.dictionaries(st.sampled_from(LABELS), score).map(
                lambda scores: {"label": "x", "score": 0.1, "scores": scores}
            ),
        ),
        "dissatisfied": score.map(lambda value: {"score": value}),
        "question": st.builds(
            lambda value, is_question: {"is_question": is_question, "score": value}, score, st.booleans()
        ),
    },
)


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(condition, min_size=1, max_size=4), st.sets(st.sampled_from(WORDS)), claims)
def test_what_holds_is_a_candidate(conditions: list[Condition], said: set[str], claimed: dict[str, Any]) -> None:
    moments = [Moment(f"m{n}", f"m{n}", "customer", condition) for n, condition in enumerate(conditions)]
    view = View(
        1, "", " ".join(sorted(said)), is_final=True, claims={name: Claim(value) for name, value in claimed.items()}
    )
    book = RuleBook(replace(policy_of(""), moments=tuple(moments)))
    judge = Judge(book, lambda _: 9)
    found = book.candidates["customer"].of(judge.said(view, "customer"), view.claims, ())
    for moment in moments:
        assert moment in found or not judge.judge(moment.condition, view, KEEP_MARGIN).holds
