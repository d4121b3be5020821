"""Every wrong wire is told by node, input, what was expected and what was given."""

from __future__ import annotations

import pytest

from inference.compile import compile_graph
from inference.compile.resolve import resolve
from inference.errors import GraphError
from inference.graph import Graph, Node, parse_graph
from inference.repository import ModelRepository

TEMPLATE = """
name: guidance
inputs: {{text: string, speaker: [customer, agent], is_final: bool, urgency: float}}
nodes:
  tokens:    {{op: tokenize, model: utterance, inputs: [text]}}
  utterance: {{op: model, model: utterance, inputs: [tokens]}}
  question:  {{op: classify, inputs: [utterance.question_logits]}}
  intent:    {{op: classify, inputs: [utterance.intent_logits]}}
  actions:   {{op: classify, inputs: [utterance.actions_logits]}}
  faulty:    {faulty}
outputs: [{outputs}]
"""
HEAD = "op: classify, inputs: [utterance.sentiment_logits]"


def declare(faulty: str, outputs: str = "faulty") -> Graph:
    return parse_graph(TEMPLATE.format(faulty=faulty, outputs=outputs), "guidance.yaml")


@pytest.mark.parametrize(
    ("faulty", "input", "expected", "given"),
    [
        ("{op: tokenize, model: utterance, inputs: [speaker]}", "speaker", "string", "one of customer, agent"),
        ("{op: tokenize, model: utterance, inputs: []}", "", "1 (a string)", "0"),
        ("{op: tokenize, inputs: [text]}", "", "model", "nothing"),
        ("{op: tokenize, model: utterances, inputs: [text]}", "", "a model that can be served", "utterances"),
        ("{op: tokenize, model: utterance, inputs: [txt]}", "txt", "a declared input or a node", "txt"),
        ("{op: model, model: utterance, inputs: [text]}", "text", "tokens of utterance", "string"),
        ("{op: model, model: foreign, inputs: [tokens]}", "tokens", "tokens of foreign", "tokens of utterance"),
        (
            "{op: model, model: utterance, inputs: [utterance.embedding]}",
            "utterance.embedding",
            "tokens of utterance",
            "FP32[4]",
        ),
        ("{op: model, model: utterance, inputs: [tokens], mode: mean}", "", "model", "mode"),
        ("{op: classify, inputs: [tokens]}", "tokens", "a row of floats", "tokens of utterance"),
        ("{op: classify, inputs: [utterance]}", "utterance", "utterance.embedding, ", "utterance"),
        (
            "{op: classify, inputs: [utterance.mood_logits]}",
            "utterance.mood_logits",
            "utterance.embedding, ",
            "utterance.mood_logits",
        ),
        (
            "{op: classify, inputs: [utterance.embedding]}",
            "utterance.embedding",
            "one of actions_logits, ",
            "embedding",
        ),
        ("{op: classify, inputs: [question.score]}", "question.score", "question", "'score' of a classify node"),
        ("{op: classify, inputs: [text.x]}", "text.x", "text", "'x' of a declared input"),
        ("{op: classify, model: utterance, inputs: [utterance.intent_logits]}", "", "prototypes", "model"),
        (
            "{op: classify, prototypes: tenant, inputs: [question]}",
            "question",
            "a row of floats",
            "{is_question, score}",
        ),
        (
            "{op: pool, inputs: [utterance.embedding, tokens]}",
            "utterance.embedding",
            "a row of floats a token",
            "FP32[4]",
        ),
        ("{op: select, inputs: []}", "", "one or more", "0"),
        (
            "{op: select, inputs: [question, intent]}",
            "intent",
            "{is_question, score}",
            "{label, score, in_scope, in_scope_score}",
        ),
        ("{op: select, inputs: [question], key: label}", "question", "label", "{is_question, score}"),
        ("{op: select, inputs: [tokens]}", "tokens", "a value or a tensor", "tokens of utterance"),
        ("{op: retrieve, inputs: [utterance.embedding]}", "", "2 (a row of floats, a string)", "1"),
        ("{op: retrieve, inputs: [utterance.embedding, speaker]}", "speaker", "string", "one of customer, agent"),
        ("{op: retrieve, inputs: [text, text]}", "text", "a row of floats", "string"),
        ("{op: python, inputs: [question]}", "", "function", "nothing"),
        ("{op: python, function: reprot, inputs: [question]}", "", "one of report", "reprot"),
        (f"{{{HEAD}, when: speaker == custmer}}", "when", "one of customer, agent", "'custmer'"),
        (f"{{{HEAD}, when: speaker}}", "when", "bool", "one of customer, agent"),
        (f"{{{HEAD}, when: speaker > 3}}", "when", "float", "one of customer, agent"),
        (f"{{{HEAD}, when: speaker == 3}}", "when", "one of customer, agent", "the number 3.0"),
        (f"{{{HEAD}, when: is_final == 'yes'}}", "when", "bool", "'yes'"),
        (f"{{{HEAD}, when: is_final > true}}", "when", "float", "bool"),
        (f"{{{HEAD}, when: urgency}}", "when", "bool", "float"),
        (f"{{{HEAD}, when: urgency > high}}", "when", "float", "'high'"),
        (f"{{{HEAD}, when: urgency > true}}", "when", "float", "the bool true"),
        (f"{{{HEAD}, when: question}}", "when", "a string, number or bool", "{is_question, score}"),
        (f"{{{HEAD}, when: question.is_asked}}", "when", "one of is_question, score", "is_asked"),
        (f"{{{HEAD}, when: question.is_question == yes}}", "when", "bool", "'yes'"),
        (f"{{{HEAD}, when: question.score.x > 1}}", "when", "no key", "x"),
        (f"{{{HEAD}, when: intent.label == greet}}", "when", "one of transfer, balance, order_status", "'greet'"),
        (f"{{{HEAD}, when: actions}}", "when", "a string, number or bool", "[{label, score}]"),
        (f"{{{HEAD}, when: tokens}}", "when", "a string, number or bool", "tokens of utterance"),
        (
            f"{{{HEAD}, when: utterance.embedding > 1}}",
            "when",
            "an input or a classified output",
            "a model node utterance",
        ),
        (f"{{{HEAD}, when: nobody == customer}}", "when", "a declared input or a node", "nobody"),
        (f"{{{HEAD}, when: faulty.score > 0.5}}", "when", "a node that can run before this one", "faulty → faulty"),
        (f"{{{HEAD}, when: is_final and not is_final}}", "when", "", "is_final and not is_final"),
        (
            f"{{{HEAD}, when: speaker == customer and speaker == agent}}",
            "when",
            "",
            "speaker == customer and speaker == agent",
        ),
        (f"{{{HEAD}, when: 'speaker = customer'}}", "when", "", ""),
    ],
)
def test_wrong_wires(faulty: str, input: str, expected: str, given: str, repository: ModelRepository) -> None:
    with pytest.raises(GraphError) as caught:
        resolve(declare(faulty), repository, functions=["report"])
    error = caught.value
    assert (error.node, error.input) == ("faulty", input)
    assert error.expected.startswith(expected)
    assert error.given == given
    assert error.field is not None
    assert error.field.startswith("nodes.faulty")
    assert error.message.startswith(f"guidance.yaml: {error.field}")


@pytest.mark.parametrize(
    ("outputs", "given"), [("tokens", "tokens (tokenize)"), ("intents", "intents"), ("text", "text")]
)
def test_outputs_are_nodes_with_one_value(outputs: str, given: str, repository: ModelRepository) -> None:
    with pytest.raises(GraphError) as caught:
        resolve(declare(f"{{{HEAD}}}", outputs), repository)
    assert (caught.value.field, caught.value.given) == ("outputs[0]", given)


def test_a_cycle_is_told_as_a_path(repository: ModelRepository) -> None:
    graph = Graph(
        "round",
        {"text": "string"},
        {
            "a": Node("python", ("b",), function="f"),
            "b": Node("python", ("c",), function="f"),
            "c": Node("python", ("text",), function="f", when="a.x > 1"),
            "behind": Node("python", ("c",), function="f"),
        },
        ("behind",),
    )
    with pytest.raises(GraphError, match=r"round.yaml: nodes.a.inputs \(input b\).*given a → b → c → a"):
        resolve(graph, repository)


def test_a_head_that_depends_on_the_speaker_needs_that_input(repository: ModelRepository) -> None:
    declared = declare(f"{{{HEAD}}}")
    for speaker in ({}, {"speaker": ("customer", "bot")}, {"speaker": "string"}):
        inputs = {**{name: kind for name, kind in declared.inputs.items() if name != "speaker"}, **speaker}
        with pytest.raises(GraphError, match="expected an input 'speaker' with agent, customer"):
            resolve(Graph("guidance", inputs, declared.nodes, declared.outputs), repository)


def test_an_unknown_output_is_told_with_those_there_are(repository: ModelRepository) -> None:
    graph = declare(f"{{{HEAD}}}", "intent, question")
    with pytest.raises(GraphError, match="expected intent, question, given mood"):
        compile_graph(graph, ["mood"], repository, backends=["onnxruntime"])


@pytest.mark.parametrize("backends", [[], ["tensorflow"], {"*": "tensorflow"}, {"second": "onnxruntime"}])
def test_a_model_needs_a_backend(backends: list[str] | dict[str, str], repository: ModelRepository) -> None:
    with pytest.raises(GraphError, match="no backend can serve model utterance") as caught:
        compile_graph(declare(f"{{{HEAD}}}"), None, repository, backends=backends)
    assert (caught.value.node, caught.value.expected) == ("utterance", "onnxruntime or triton or fake")


def test_a_model_may_be_placed_by_name(repository: ModelRepository) -> None:
    plan = compile_graph(declare(f"{{{HEAD}}}"), None, repository, backends={"*": "onnxruntime", "utterance": "triton"})
    assert plan.backend == {"utterance": "triton"}


def test_a_node_enters_only_rows_that_its_inputs_have(repository: ModelRepository) -> None:
    draft = resolve(declare("{op: python, function: f, inputs: [question], when: is_final}"), repository)
    assert str(draft.vertices["faulty"].when) == "is_final"
    text = TEMPLATE.format(faulty="{op: python, function: f, inputs: [question], when: is_final}", outputs="faulty")
    narrowed = text.replace("[utterance.question_logits]", "[utterance.question_logits], when: speaker == customer")
    draft = resolve(parse_graph(narrowed, "guidance.yaml"), repository)
    assert str(draft.vertices["faulty"].when) == "is_final and speaker == customer"


def test_a_condition_on_a_node_holds_only_where_it_ran(repository: ModelRepository) -> None:
    text = TEMPLATE.format(faulty=f"{{{HEAD}, when: question.is_question}}", outputs="faulty").replace(
        "[utterance.question_logits]", "[utterance.question_logits], when: speaker == customer"
    )
    draft = resolve(parse_graph(text, "guidance.yaml"), repository)
    assert str(draft.vertices["faulty"].when) == "question.is_question and speaker == customer"


def test_tokens_of_an_equal_tokeniser_are_taken(repository: ModelRepository) -> None:
    draft = resolve(declare("{op: python, function: f, inputs: [text]}"), repository)
    assert "faulty" in draft.vertices
    text = TEMPLATE.format(faulty=f"{{{HEAD}}}", outputs="faulty").replace(
        "{op: model, model: utterance", "{op: model, model: second"
    )
    assert resolve(parse_graph(text, "guidance.yaml"), repository).vertices["utterance"].model == "second"
