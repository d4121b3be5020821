"""The verifier catches what a faulty pass would leave behind, and names the node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from inference.compile import compile_graph, trace
from inference.compile.draft import Draft
from inference.compile.verify import verify, verify_plan
from inference.errors import GraphError
from inference.graph import parse_graph
from inference.plan import Bucket, Condition, Op, Plan, Slot, Step
from inference.repository import ModelRepository
from inference.when import parse_when
from tests.inference.compile.test_compiler import BACKENDS, GUIDANCE

Change = Callable[[Draft], Draft]


def vertex(node: str, **changes: object) -> Change:
    return lambda draft: replace(
        draft,
        vertices={**draft.vertices, node: replace(draft.vertices[node], **changes)},  # type: ignore[arg-type]
    )


def backwards(draft: Draft) -> Draft:
    return replace(draft, vertices=dict(reversed(draft.vertices.items())))


def interrupted(draft: Draft) -> Draft:
    vertices = dict(draft.vertices)
    passages = vertices.pop("passages")
    actions = vertices.pop("actions")
    return replace(draft, vertices={**vertices, "passages": passages, "actions": actions})


@pytest.fixture(scope="module")
def ordered(repository: ModelRepository) -> Draft:
    return trace([(parse_graph(GUIDANCE, "guidance.yaml"), None)], repository, backends=BACKENDS)[-1].drafts[0]


@pytest.fixture(scope="module")
def plan(repository: ModelRepository) -> Plan:
    return compile_graph(parse_graph(GUIDANCE, "guidance.yaml"), None, repository, backends=BACKENDS)


@pytest.mark.parametrize(
    ("change", "node", "problem"),
    [
        (vertex("intent", reads=("utterance.nothing",)), "intent", "nothing writes it"),
        (vertex("intent", when=parse_when("nobody")), "intent", "nothing writes it"),
        (vertex("intent", name="intents"), "intent", "filed under another name"),
        (vertex("tokens", when=parse_when("question.is_question")), "actions", "waits for itself"),
        (vertex("intent", reads=("utterance.intent_logits",)), "utterance", "writes what nobody reads"),
        (vertex("utterance", tensors=()), "actions", "nothing writes it"),
        (vertex("passages", group=1), "passages", "no head of its group"),
        (vertex("intent", group=7), "intent", "no head of its group"),
        (lambda draft: replace(draft, outputs={"mood": "mood"}), "mood", "an output is missing"),
        (lambda draft: replace(draft, outputs={"intent": "intent"}), "actions", "nobody needs it"),
        (lambda draft: replace(draft, types={}), "tokens", "has no type"),
        (lambda draft: replace(draft, buckets={}), "utterance", "no ascending ladder"),
        (
            lambda draft: replace(draft, buckets={"utterance": (Bucket(8, 8), Bucket(1, 8))}),
            "utterance",
            "no ascending ladder",
        ),
        (lambda draft: replace(draft, backend={}), "utterance", "has no backend"),
        (backwards, "passages", "runs before what it needs"),
        (interrupted, "actions", "its group is interrupted"),
    ],
)
def test_faulty_drafts(change: Change, node: str, problem: str, ordered: Draft) -> None:
    verify(ordered, "order")
    with pytest.raises(GraphError, match=f"after pass order: .*{problem}") as caught:
        verify(change(ordered), "order")
    assert caught.value.node == node


def step(plan: Plan, name: str, **changes: object) -> Plan:
    steps = [replace(s, **changes) if s.node == name else s for s in plan.steps]  # type: ignore[arg-type]
    return replace(plan, steps=tuple(steps))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda plan: step(plan, "intent", inputs=(Slot(99),)), "reads an unwritten slot"),
        (
            lambda plan: step(plan, "intent", when=Condition("truthy", slot=plan.outputs["question"])),
            "reads an unwritten",
        ),
        (lambda plan: step(plan, "intent", outputs=(Slot(0),)), "writes a slot twice"),
        (lambda plan: step(plan, "intent", outputs=(Slot(99),)), "writes a slot twice"),
        (lambda plan: step(plan, "intent", outputs=()), "wrong number of outputs"),
        (lambda plan: replace(plan, outputs={"intent": Slot(99)}), "output is never written"),
    ],
)
def test_faulty_plans(change: Callable[[Plan], Plan], problem: str, plan: Plan) -> None:
    verify_plan(plan)
    with pytest.raises(GraphError, match=problem) as caught:
        verify_plan(change(plan))
    assert caught.value.node == "intent"


def test_a_plan_is_hashable_and_frozen(plan: Plan) -> None:
    assert {plan: 1}[replace(plan)] == 1
    assert all(isinstance(s, Step) and isinstance(s.op, Op) for s in plan.steps)
