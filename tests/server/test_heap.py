from __future__ import annotations

import gc
from pathlib import Path

from inference.backends.fake import FakeBackend
from server.heap import settle
from server.policy.rulebook import RuleBook
from server.policy.runtime import CallPolicy
from server.wire.publication import Annotation
from tests.inference.engine.running import GRAPH, running
from tests.inference.model_folders import write_model
from tests.inference.tiny_models import bert_tokenizer
from tests.server.policy.script import policy_of, utterance

QUIET = policy_of("""
moments: [{id: price, speaker: customer, any: [{lexical: "how much"}, {sentiment: negative, for_turns: 2}]}]
actions: [{id: quote, on: price, type: reply, title: Quote}]
""")
MANY = 24
"""Rows and turns that are remembered, fewer than either memory forgets the first at."""


def num_looked_at() -> int:
    """Objects that the collector walks over."""
    gc.collect()
    return len(gc.get_objects())


def test_what_is_alive_is_not_looked_at_again_and_what_comes_later_is_still_collected() -> None:
    thresholds = gc.get_threshold()
    try:
        settle()
        assert gc.get_freeze_count() > 0
        assert all(new >= old for new, old in zip(gc.get_threshold()[:1], thresholds[:1], strict=True))
        ring: list[object] = []
        ring.append(ring)
        del ring
        assert gc.collect() >= 1
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


async def test_rows_that_the_engine_remembers_are_nothing_for_the_collector(tmp_path: Path) -> None:
    write_model(tmp_path, tokenizer=bert_tokenizer().to_str())
    async with running(tmp_path, backend=FakeBackend(), memo_rows=4 * MANY) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])

        async def ask(first: int) -> None:
            for number in range(first, first + MANY):
                await engine.run(plan, {"text": "card " * (number % 7 + 1) + "order " * (number // 7 + 1)})

        await ask(0)
        before = num_looked_at()
        await ask(MANY)
        assert num_looked_at() - before < MANY / 2
        assert engine.stats().rows == 2 * MANY, "rows were not all new, and nothing more was remembered"


def test_turns_that_are_judged_are_nothing_for_the_collector() -> None:
    policy = CallPolicy(RuleBook(QUIET))

    def say(number: int) -> None:
        said = utterance(f"u{number}", "my card is lost", end_s=number)
        value = {"label": "neutral", "score": 0.9, "scores": {"negative": 0.1, "neutral": 0.9, "positive": 0.0}}
        note = Annotation(
            utterance_id=said.utterance_id,
            revision=1,
            output="sentiment",
            value=value,
            score=0.9,
            model="utterance",
            version=1,
        )
        policy.on_utterance(said, float(number))
        policy.on_annotations([note], said, float(number))

    say(1)
    before = num_looked_at()
    for number in range(2, MANY):
        say(number)
    assert num_looked_at() - before < MANY / 2
    assert policy.has_judged(utterance("u2", "", end_s=2).utterance_id)
