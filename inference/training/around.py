"""What calls have around their topic (`around.yaml`): greetings, names and numbers, waiting, another topic before.

A talk of a service base is short and to the point; a head that has seen no more of calls would take a caller's name for
the point. Pure, seeded by the generator handed in.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import yaml

from inference.training.service_bases import ServiceArticle, ServiceBase, Turns, read_turns

FILE = Path(__file__).with_name("around.yaml")
TIMES = 2
"""How often each talk is added."""
GREETED, INTERRUPTED, WAITED = 0.6, 0.5, 0.5
"""Share of talks with a greeting, with names and numbers amid the topic, and with waiting before the question."""
TOPIC_BEFORE = 0.45
"""Share of talks in which another topic of the base was dealt with first."""

_around = {kind: tuple(map(read_turns, talks)) for kind, talks in yaml.safe_load(FILE.read_text("utf-8")).items()}


def with_calls_around(base: ServiceBase, rng: random.Random) -> ServiceBase:
    """Add each talk of a base `TIMES` more, with what a call has around it."""
    talks = [
        (article.id, question, turns) for article in base.articles for question, turns in article.questions if turns
    ]

    def more(article: ServiceArticle) -> ServiceArticle:
        others = [(question, turns) for id, question, turns in talks if id != article.id]
        added = [
            (question, _around_talk(turns, others, rng))
            for _ in range(TIMES)
            for question, turns in article.questions
            if turns
        ]
        return ServiceArticle(article.id, article.title, article.text, (*article.questions, *added))

    return ServiceBase(base.trade, tuple(map(more, base.articles)))


def _around_talk(talk: Turns, others: Sequence[tuple[str, Turns]], rng: random.Random) -> Turns:
    turns: list[tuple[str, str]] = []
    if rng.random() < GREETED:
        turns += rng.choice(_around["greetings"])
    if others and rng.random() < TOPIC_BEFORE:
        question, before = rng.choice(others)
        turns += [*before, ("customer", question), *rng.choice(_around["closings"])]
    place = rng.randrange(1, len(talk)) if len(talk) > 2 and rng.random() < INTERRUPTED else len(talk)
    turns += talk[:place]
    if place < len(talk):
        turns += _some("particulars", rng.randint(1, 2), rng)
        turns += talk[place:]
    turns += _some("particulars", rng.randint(0, 3), rng)
    return (*turns, *(rng.choice(_around["waiting"]) if rng.random() < WAITED else ()))


def _some(kind: str, number: int, rng: random.Random) -> list[tuple[str, str]]:
    return [turn for turns in rng.sample(_around[kind], number) for turn in turns]
