"""The compiler's promises, on random graphs: a plan means what the declaration says, in whatever order it says it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from inference.compile import compile_graph, compile_set, offered_labels, trace
from inference.compile.logic import MAX_COMPARISONS
from inference.compile.verify import PASSES
from inference.errors import GraphError
from inference.graph import Graph, Node, parse_graph
from inference.plan import Op, Plan, Slot
from inference.repository import ModelRepository
from tests.examples import examples
from tests.inference.compile.interpreter import run_declaration, run_plan
from tests.inference.compile.strategies import ROWS, graphs, shuffled

BACKENDS = ("onnxruntime",)
often = settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

GUIDANCE = """
name: guidance
inputs: {text: string, speaker: [customer, agent], is_final: bool}
nodes:
  tokens:    {op: tokenize, model: utterance, inputs: [text]}
  utterance: {op: model, model: utterance, inputs: [tokens], budget_ms: 40}
  intent:    {op: classify, inputs: [utterance.intent_logits], when: speaker == customer}
  question:  {op: classify, inputs: [utterance.question_logits], when: speaker == customer}
  actions:   {op: classify, inputs: [utterance.actions_logits]}
  moments:   {op: classify, inputs: [utterance.embedding], prototypes: tenant}
  passages:  {op: retrieve, inputs: [utterance.embedding, text], when: question.is_question and is_final, budget_ms: 10}
outputs: [intent, question, actions, moments, passages]
"""


@pytest.fixture(scope="module")
def guidance() -> Graph:
    return parse_graph(GUIDANCE, "guidance.yaml")


@contextmanager
def only_satisfiable() -> Iterator[None]:
    """Skip random graphs with a condition that contradicts itself."""
    try:
        yield
    except GraphError as error:
        if "can never be true" not in error.message:
            raise
        reject()


def compiles(graph: Graph, repository: ModelRepository, wanted: Sequence[str] | None = None) -> Plan:
    with only_satisfiable():
        return compile_graph(graph, wanted, repository, backends=BACKENDS)


@often
@given(data=st.data(), graph=graphs())
def test_a_plan_means_what_the_declaration_says(data: Any, graph: Graph, repository: ModelRepository) -> None:
    wanted = data.draw(st.lists(st.sampled_from(graph.outputs), unique=True, min_size=1))
    plan = compiles(graph, repository, wanted)
    for row in ROWS:
        declared = run_declaration(graph, repository, row)
        outputs, _ = run_plan(plan, repository, row)
        assert outputs == {name: declared[name] for name in wanted}


@often
@given(data=st.data(), graph=graphs())
def test_order_of_declaration_changes_nothing(data: Any, graph: Graph, repository: ModelRepository) -> None:
    assert compiles(graph, repository) == compiles(shuffled(graph, data.draw), repository)


@often
@given(data=st.data(), first=graphs(), second=graphs("other"))
def test_a_merged_plan_equals_the_separate_ones(
    data: Any, first: Graph, second: Graph, repository: ModelRepository
) -> None:
    policies = {
        f"policy{index}": (graph, data.draw(st.lists(st.sampled_from(graph.outputs), unique=True, min_size=1)))
        for index, graph in enumerate(data.draw(st.lists(st.sampled_from([first, second]), min_size=1, max_size=4)))
    }
    with only_satisfiable():
        plans = compile_set(policies, repository, backends=BACKENDS)
    for name, (graph, wanted) in policies.items():
        own = plans.plans[name]
        assert own == compile_graph(graph, wanted, repository, backends=BACKENDS)
        output_of = {output: shared_name(plans.shared, graph, output) for output in wanted}
        assert restricted(plans.shared, output_of.values()) == restricted(own, wanted)
        for row in ROWS:
            separate, _ = run_plan(own, repository, row)
            merged, _ = run_plan(plans.shared, repository, row)
            assert {output: merged[output_of[output]] for output in wanted} == separate


@often
@given(graph=graphs())
def test_equal_nodes_run_once(graph: Graph, repository: ModelRepository) -> None:
    plan = compiles(graph, repository)
    encoders = [(step.model, step.inputs) for step in plan.steps if step.op is Op.MODEL]
    assert len(encoders) == len(set(encoders))
    assert sum(step.op is Op.TOKENIZE for step in plan.steps) <= 1


@often
@given(graph=graphs())
def test_groups_are_one_model_and_its_heads_in_a_row(graph: Graph, repository: ModelRepository) -> None:
    plan = compiles(graph, repository)
    numbered = [group for group, _ in groupby(step.group for step in plan.steps) if group]
    assert numbered == list(range(1, len(numbered) + 1))
    for group in numbered:
        model, *heads = [step for step in plan.steps if step.group == group]
        assert model.op is Op.MODEL
        assert heads
        assert all(head.op is Op.CLASSIFY and set(head.inputs) & set(model.outputs) for head in heads)


def shared_name(shared: Plan, graph: Graph, output: str) -> str:
    """Return the name of a graph's output in a shared plan, where two graphs may use one name for two things."""
    return output if output in shared.outputs else f"{graph.name}/{output}"


def restricted(plan: Plan, outputs: Any) -> set[bytes]:
    """Return what a plan computes for some outputs: one key a step, made of what it does, not of names or slots.

    Conditions are left out: a shared step enters the rows of any policy.
    """
    writer = {slot: step for step in plan.steps for slot in step.outputs}
    names = {slot: name for name, slot in plan.inputs.items()}
    keys: set[bytes] = set()

    def key(slot: Slot) -> str:
        step = writer.get(slot)
        if step is None:
            return names[slot]
        tensor = step.tensors[step.outputs.index(slot)] if step.op is Op.MODEL else ""
        parts = (step.op.value, step.model, [key(read) for read in step.inputs], step.params)
        encoded = msgspec.json.encode(parts, order="deterministic")
        keys.add(encoded)
        return encoded.decode() + tensor

    for output in outputs:
        key(plan.outputs[output])
    return keys


def test_slots_hold_inputs_first_then_what_steps_write(guidance: Graph, repository: ModelRepository) -> None:
    plan = compile_graph(guidance, None, repository, backends=BACKENDS)
    assert plan.slots[:4] == ("is_final", "speaker", "text", "tokens")
    assert [plan.slots[slot] for step in plan.steps for slot in step.outputs] == list(plan.slots[3:])
    assert [step.node for step in plan.steps] == [
        "tokens", "utterance", "actions", "intent", "moments", "question", "passages",
    ]  # fmt: skip
    assert list(plan.outputs) == ["actions", "intent", "moments", "question", "passages"]
    assert plan.backend == {"utterance": "onnxruntime"}
    assert [bucket.padded_tokens for bucket in plan.buckets["utterance"]] == [8, 32, 32, 64, 128, 256]


def test_heads_read_what_their_spec_names(guidance: Graph, repository: ModelRepository) -> None:
    plan = compile_graph(guidance, None, repository, backends=BACKENDS)
    steps = {step.node: step for step in plan.steps}
    assert steps["intent"].tensors == ("intent_logits", "intent_scope")
    assert [plan.slots[slot] for slot in steps["intent"].inputs] == [
        "utterance.intent_logits",
        "utterance.intent_scope",
    ]
    assert [plan.slots[slot] for slot in steps["actions"].inputs] == ["utterance.actions_logits", "speaker"]
    assert steps["moments"].params == {"prototypes": "tenant"}
    assert {step.group for step in plan.steps if step.node != "passages" and step.op is not Op.TOKENIZE} == {1}


def test_only_wanted_heads_and_tensors_are_left(guidance: Graph, repository: ModelRepository) -> None:
    plan = compile_graph(guidance, ["moments"], repository, backends=BACKENDS)
    assert [step.node for step in plan.steps] == ["tokens", "utterance", "moments"]
    assert plan.steps[1].tensors == ("embedding",)


def test_rows_that_no_head_wants_never_reach_the_encoder(guidance: Graph, repository: ModelRepository) -> None:
    plan = compile_graph(guidance, ["intent", "passages"], repository, backends=BACKENDS)
    row = {"text": "one", "speaker": "agent", "is_final": True}
    assert run_plan(plan, repository, row) == ({"intent": None, "passages": None}, [])
    _, entered = run_plan(plan, repository, {**row, "speaker": "customer", "is_final": False})
    assert entered == ["tokens", "utterance", "intent"]


def test_an_encoder_waits_for_the_head_that_decides_about_it(repository: ModelRepository) -> None:
    text = GUIDANCE.replace(
        "outputs: [",
        "  expensive: {op: model, model: second, inputs: [tokens]}\n"
        "  mood: {op: classify, inputs: [expensive.sentiment_logits], when: question.is_question}\noutputs: [mood, ",
    )
    plan = compile_graph(parse_graph(text, "guidance.yaml"), ["mood"], repository, backends=BACKENDS)
    assert [step.node for step in plan.steps] == ["tokens", "utterance", "question", "expensive", "mood"]
    entered = {len(run_plan(plan, repository, row)[1]) for row in ROWS}
    assert entered == {0, 3, 5}


def test_two_graphs_share_one_encoder(guidance: Graph, repository: ModelRepository) -> None:
    other = parse_graph(
        """
        name: other
        inputs: {text: string, speaker: [customer, agent]}
        nodes:
          words:  {op: tokenize, model: utterance, inputs: [text]}
          common: {op: model, model: utterance, inputs: [words], budget_ms: 20}
          intent: {op: classify, inputs: [common.intent_banking_logits]}
          mood:   {op: classify, inputs: [common.sentiment_logits]}
        outputs: [intent, mood]
        """,
        "other.yaml",
    )
    plans = compile_set({"a": (guidance, ["intent"]), "b": (other, None)}, repository, backends=BACKENDS)
    shared = plans.shared
    assert [step.node for step in shared.steps if step.op is Op.MODEL] == ["common"]
    assert shared.steps[1].budget_ms == 20
    assert list(shared.outputs) == ["guidance/intent", "mood", "other/intent"]
    assert plans.plans["a"] == compile_graph(guidance, ["intent"], repository, backends=BACKENDS)


def test_graphs_that_disagree_about_an_input_are_refused(guidance: Graph, repository: ModelRepository) -> None:
    nodes = {name: node for name, node in guidance.nodes.items() if name != "passages"}
    other = Graph("other", {**guidance.inputs, "is_final": "float"}, nodes, ("intent",))
    with pytest.raises(GraphError, match=r"inputs\.is_final.*expected bool, given float"):
        compile_set({"a": (guidance, None), "b": (other, None)}, repository, backends=BACKENDS)


def test_two_graphs_of_one_name_are_refused(guidance: Graph, repository: ModelRepository) -> None:
    other = parse_graph(GUIDANCE.replace("budget_ms: 40", "budget_ms: 50"), "guidance.yaml")
    with pytest.raises(GraphError, match=r"nodes\.utterance: two graphs of one name differ here"):
        compile_set({"a": (guidance, None), "b": (other, None)}, repository, backends=BACKENDS)


def test_policies_that_want_the_same_share_a_plan(guidance: Graph, repository: ModelRepository) -> None:
    wanted = {
        "a": (guidance, ["intent", "moments"]),
        "b": (guidance, ("moments", "intent")),
        "c": (guidance, ["intent"]),
    }
    plans = compile_set(wanted, repository, backends=BACKENDS)
    assert plans.plans["a"] is plans.plans["b"]
    assert plans.plans["c"] is not plans.plans["a"]
    assert list(plans.shared.outputs) == ["intent", "moments"]


def test_a_thousand_nodes(repository: ModelRepository) -> None:
    nodes = {"tokens": Node("tokenize", ("text",), model="utterance")}
    nodes |= {f"encoder{i}": Node("model", ("tokens",), model="utterance") for i in range(100)}
    nodes |= {
        f"head{i}": Node("classify", (f"encoder{i % 100}.intent_logits",), when=f"urgency > {i}") for i in range(900)
    }
    graph = Graph("wide", {"text": "string", "urgency": "float"}, nodes, tuple(f"head{i}" for i in range(900)))
    plan = compile_graph(graph, None, repository, backends=BACKENDS)
    assert len(plan.steps) == 902
    assert plan.steps[1].when is None  # nine hundred alternatives are not worth asking


@pytest.mark.parametrize(("readers", "asks"), [(8, True), (9, False)])
def test_an_encoder_asks_a_few_readers_what_they_want_and_not_many(
    readers: int, asks: bool, repository: ModelRepository
) -> None:
    nodes = {
        "tokens": Node("tokenize", ("text",), model="utterance"),
        "encoder": Node("model", ("tokens",), model="utterance"),
    }
    nodes |= {f"n{i}": Node("classify", ("encoder.intent_logits",), when=f"urgency > {i}") for i in range(readers)}
    graph = Graph("wide", {"text": "string", "urgency": "float"}, nodes, tuple(f"n{i}" for i in range(readers)))
    plan = compile_graph(graph, None, repository, backends=BACKENDS)
    assert (plan.steps[1].when is not None) is asks


def test_no_pass_makes_a_condition_that_nobody_may_declare(repository: ModelRepository) -> None:
    """Two readers of forty comparisons each, behind equal nodes and behind one: eighty are asked of no row."""
    when = [" and ".join(f"urgency > {first + i}" for i in range(40)) for first in (0, 100)]
    inputs = {"text": "string", "urgency": "float"}
    nodes = {
        "tokens": Node("tokenize", ("text",), model="utterance"),
        "encoder": Node("model", ("tokens",), model="utterance"),
        "n0": Node("classify", ("encoder.intent_logits",), when=when[0]),
        "n1": Node("classify", ("encoder.intent_logits",), when=when[1]),
    }
    plan = compile_graph(Graph("one", inputs, nodes, ("n0", "n1")), None, repository, backends=BACKENDS)
    assert [step.when is None for step in plan.steps] == [True, True, False, False]
    nodes = {}
    for index in (0, 1):
        nodes[f"tokens{index}"] = Node("tokenize", ("text",), model="utterance", when=when[index])
        nodes[f"encoder{index}"] = Node("model", (f"tokens{index}",), model="utterance")
        nodes[f"n{index}"] = Node("classify", (f"encoder{index}.intent_logits",))
    plan = compile_graph(Graph("two", inputs, nodes, ("n0", "n1")), None, repository, backends=BACKENDS)
    assert [step.when is None for step in plan.steps] == [True, True, False, False]


def test_nodes_that_differ_in_a_parameter_stay_two(repository: ModelRepository) -> None:
    nodes = {
        "few": Node("python", ("text",), function="find", params={"most": 3}),
        "many": Node("python", ("text",), function="find", params={"most": 5}),
        "again": Node("python", ("text",), function="find", params={"most": 5}),
    }
    plan = compile_graph(Graph("find", {"text": "string"}, nodes, tuple(nodes)), None, repository, backends=BACKENDS)
    assert [(step.node, step.params["most"]) for step in plan.steps] == [("again", 5), ("few", 3)]
    assert plan.outputs["again"] == plan.outputs["many"]


def test_a_head_that_waits_for_another_head_holds_back_none(guidance: Graph, repository: ModelRepository) -> None:
    answer = Node("classify", ("utterance.sentiment_logits",), when="question.is_question")
    graph = Graph(guidance.name, guidance.inputs, {**guidance.nodes, "answer": answer}, ("answer", "intent"))
    plan = compile_graph(graph, None, repository, backends=BACKENDS)
    assert [(step.node, step.group) for step in plan.steps] == [
        ("tokens", 0), ("utterance", 1), ("intent", 1), ("question", 1), ("answer", 0),
    ]  # fmt: skip


def test_the_tightest_budget_goes_first_and_functions_last(repository: ModelRepository) -> None:
    nodes = {
        "a_function": Node("python", ("text",), function="f", budget_ms=1.0),
        "relaxed": Node("model", ("tokens",), model="utterance", budget_ms=40.0),
        "tight": Node("model", ("tokens",), model="second", budget_ms=5.0),
        "tokens": Node("tokenize", ("text",), model="utterance"),
        "x": Node("select", ("relaxed.embedding",)),
        "y": Node("select", ("tight.embedding",)),
    }
    graph = Graph("budgets", {"text": "string"}, nodes, ("a_function", "x", "y"))
    plan = compile_graph(graph, None, repository, backends=BACKENDS)
    assert [step.node for step in plan.steps] == ["tokens", "tight", "relaxed", "x", "y", "a_function"]


@pytest.mark.parametrize("backends", [("onnxruntime", "fake"), ("fake", "onnxruntime")])
def test_the_first_backend_that_can_is_taken(
    backends: tuple[str, str], guidance: Graph, repository: ModelRepository
) -> None:
    plan = compile_graph(guidance, ["intent"], repository, backends=backends)
    assert plan.backend == {"utterance": backends[0]}


@pytest.mark.parametrize("depth", [64, 65])
def test_conditions_of_conditions_end_somewhere(depth: int, repository: ModelRepository) -> None:
    nodes = {"n0": Node("python", ("text",), function="f", when="urgency > 0")}
    nodes |= {f"n{i}": Node("python", (f"n{i - 1}",), function="f", when=f"urgency > {i}") for i in range(1, depth)}
    graph = Graph("deep", {"text": "string", "urgency": "float"}, nodes, (f"n{depth - 1}",))
    if depth <= MAX_COMPARISONS:
        assert len(compile_graph(graph, None, repository, backends=BACKENDS).steps) == depth
    else:
        with pytest.raises(GraphError, match=r"nodes\.n64\.when: too many comparisons.*expected at most 64, given 65"):
            compile_graph(graph, None, repository, backends=BACKENDS)


def test_unrelated_nodes_do_not_change_the_structure(guidance: Graph, repository: ModelRepository) -> None:
    smaller = Graph(
        "guidance", guidance.inputs, {k: v for k, v in guidance.nodes.items() if k != "passages"}, ("intent",)
    )
    first = compile_graph(guidance, ["intent"], repository, backends=BACKENDS)
    assert compile_graph(smaller, None, repository, backends=BACKENDS).structure == first.structure
    assert compile_graph(guidance, ["intent"], repository, backends=["fake"]).structure != first.structure


def test_trace_has_a_stage_for_each_pass(guidance: Graph, repository: ModelRepository) -> None:
    stages = trace([(guidance, None), (guidance, ["intent"])], repository, backends=BACKENDS)
    assert [stage.name for stage in stages] == list(PASSES)
    assert [len(stage.drafts) for stage in stages] == [1, 2, 1, 1, 1, 1, 1, 1]


def test_labels_of_one_kind_of_list_or_another_are_any(guidance: Graph, repository: ModelRepository) -> None:
    either = Node("select", ("actions", "moments"))
    graph = Graph(guidance.name, guidance.inputs, {**guidance.nodes, "either": either}, ("either",))
    assert offered_labels(graph, repository) == {"either": None}


def test_a_policy_can_ask_what_labels_there_are(guidance: Graph, repository: ModelRepository) -> None:
    assert offered_labels(guidance, repository) == {
        "intent": frozenset({"transfer", "balance", "order_status"}),
        "actions": frozenset({"verify", "apologise", "close"}),
        "question": None,
        "moments": None,
        "passages": None,
    }
