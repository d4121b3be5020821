"""A talk keeps its words and its question, whatever a call has around it."""

from __future__ import annotations

import random

from inference.training.around import TIMES, with_calls_around
from inference.training.service_bases import ServiceArticle, ServiceBase, Turns

TALK: Turns = (("customer", "my bill is too high"), ("agent", "let me see"), ("customer", "it doubled"))
OTHER: Turns = (("customer", "i lost my key"),)
BASE = ServiceBase(
    "power",
    (
        ServiceArticle("bill", "Bills", "Text.", (("what does power cost", ()), ("why is that", TALK))),
        ServiceArticle("key", "Keys", "Text.", (("what now", OTHER),)),
    ),
)


def test_talks_are_added_and_direct_questions_are_not() -> None:
    bill, key = with_calls_around(BASE, random.Random(0)).articles
    assert bill.questions[:2] == BASE.articles[0].questions
    assert [question for question, _ in bill.questions[2:]] == ["why is that"] * TIMES
    assert len(key.questions) == 1 + TIMES


def test_the_talk_is_there_in_order_after_any_other_topic() -> None:
    lengths = set()
    for seed in range(40):
        for _, turns in with_calls_around(BASE, random.Random(seed)).articles[0].questions[2:]:
            places = [turns.index(turn) for turn in TALK]
            assert places == sorted(places)
            if OTHER[0] in turns:
                assert turns.index(OTHER[0]) < turns.index(("customer", "what now")) < places[0]
            lengths.add(len(turns))
    assert len(lengths) > 5
    assert min(lengths) >= len(TALK)


def test_the_same_seed_adds_the_same() -> None:
    assert with_calls_around(BASE, random.Random(3)) == with_calls_around(BASE, random.Random(3))
