from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.compile import compile_graph
from inference.errors import OverloadedError
from inference.graph import parse_graph
from inference.life.shadow import MAX_UNDER_WAY, Shadow, is_same, without_functions
from inference.plan import Plan
from inference.repository import ModelRepository
from inference.request import Outcome, Output, Request, RowClass
from tests.inference.model_folders import write_model

GRAPH = parse_graph(
    """
name: guidance
inputs: {text: string, is_final: bool}
nodes:
  tokens:    {op: tokenize, model: utterance, inputs: [text]}
  utterance: {op: model, model: utterance, inputs: [tokens]}
  intent:    {op: classify, inputs: [utterance.intent_logits]}
  passages:  {op: retrieve, inputs: [utterance.embedding, text], when: is_final, top_k: 3}
  best:      {op: python, function: pick, inputs: [passages]}
outputs: [intent, passages, best]
""",
    "guidance.yaml",
)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    write_model(tmp_path)
    return compile_graph(GRAPH, None, ModelRepository.open(tmp_path), backends=("fake",))


def output(label: str, score: float) -> Output:
    return Output("intent", {"label": label, "score": score}, score, "utterance", 1, 0.0, 0.0, 0.0, 0.0)


class Rig:
    """A shadow whose copies the test answers."""

    def __init__(self, plan: Plan, ratio: float = 1.0) -> None:
        self.plan = plan
        self.copies: list[Request] = []
        self.is_full = False
        self.results: list[tuple[str, str]] = []
        self.shadow = Shadow(
            "utterance",
            2,
            ratio,
            self.take,
            clock=lambda: 100.0,
            on_compared=lambda output, result: self.results.append((output, result)),
        )

    def take(self, request: Request) -> None:
        if self.is_full:
            raise OverloadedError("queue full")
        self.copies.append(request)

    def live(self, said: Output, outcome: Outcome = Outcome.DONE, **fields: Any) -> list[Any]:
        seen: list[Any] = []
        request = Request(
            plan=self.plan,
            inputs={"text": "x", "is_final": True},
            owner="call",
            key="u",
            on_outputs=seen.extend,
            on_done=lambda *end: seen.append(end[0]),
            **fields,
        )
        followed = self.shadow.follow(request)
        followed.on_outputs([said])
        assert not self.copies or followed is request or seen
        followed.on_done(outcome, None)
        return seen


def test_a_plan_without_lookups_keeps_what_models_alone_answer(plan: Plan) -> None:
    kept = without_functions(plan)
    assert set(kept.outputs) == {"intent"}
    assert {step.node for step in kept.steps} == {"tokens", "utterance", "intent"}
    assert kept.structure != plan.structure
    assert without_functions(kept) is kept


def test_a_row_is_asked_again_once_it_is_answered_and_compared(plan: Plan) -> None:
    rig = Rig(plan)
    said = output("lost_card", 0.9)
    assert rig.live(said) == [said, Outcome.DONE]
    (copy,) = rig.copies
    assert (copy.row_class, copy.pins, copy.owner, copy.key) == (RowClass.SHADOW, {"utterance": 2}, "", "")
    copy.on_outputs([output("top_up", 0.4)])
    copy.on_done(Outcome.DONE, None)
    rig.live(said)
    rig.copies[1].on_outputs([output("lost_card", 0.8)])
    rig.copies[1].on_done(Outcome.DONE, None)
    agreement = rig.shadow.agreements["intent"]
    assert (agreement.rows, agreement.ratio) == (2, 0.5)
    assert agreement.mean_gap == pytest.approx(0.3)
    assert rig.results == [("intent", "differed"), ("intent", "agreed")]


def test_only_its_share_of_live_rows_is_asked(plan: Plan) -> None:
    rig = Rig(plan, ratio=0.25)
    for _ in range(20):
        rig.live(output("a", 0.5))
    assert len(rig.copies) == 5
    rig.live(output("a", 0.5), row_class=RowClass.BACKGROUND)
    rig.live(output("a", 0.5), pins={"utterance": 1})
    assert rig.shadow._due == 0.0


def test_copies_give_way_and_failures_are_counted(plan: Plan) -> None:
    rig = Rig(plan)
    rig.live(output("a", 0.5), Outcome.LATE)  # nothing to compare with
    assert rig.copies == []
    for _ in range(MAX_UNDER_WAY + 3):
        rig.live(output("a", 0.5))
    assert len(rig.copies) == MAX_UNDER_WAY
    rig.copies[0].on_done(Outcome.FAILED, None)
    rig.copies[1].on_done(Outcome.LATE, None)
    rig.is_full = True
    rig.live(output("a", 0.5))
    assert (rig.shadow.failed, rig.shadow.skipped) == (1, 5)
    assert replace(rig.copies[0], plan=plan).deadline_s == 105.0


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"label": "a", "score": 0.9}, {"label": "a", "score": 0.4}, True),
        ({"label": "a", "score": 0.9}, {"label": "b", "score": 0.9}, False),
        ({"label": "a", "in_scope": True}, {"label": "a", "in_scope": False}, False),
        ({"score": 0.50}, {"score": 0.59}, True),
        ({"score": 0.50}, {"score": 0.61}, False),
        ([{"label": "a", "score": 0.9}, {"label": "b", "score": 0.8}], [{"label": "b"}, {"label": "a"}], True),
        ([{"label": "a"}], [], False),
        (None, {"label": "a"}, False),
        (np.array([1.0, 0.0]), np.array([2.0, 0.1]), True),
        (np.array([1.0, 0.0]), np.array([0.0, 1.0]), False),
        ("x", "x", True),
    ],
)
def test_what_counts_as_the_same_claim(one: Any, other: Any, expected: bool) -> None:
    assert is_same(one, other) is expected
