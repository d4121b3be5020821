from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import GraphError
from inference.graph import Node, load_graphs, parse_graph, read_graph

GOOD = """
name: guidance
inputs: {text: string, speaker: [customer, agent], is_final: bool, urgency: float}
nodes:
  tokens: {op: tokenize, model: utterance, inputs: [text]}
  report: {op: python, function: report, inputs: [tokens], when: is_final, budget_ms: 4, params: {depth: 3}}
outputs: [report]
"""


def test_a_graph_is_read_as_declared() -> None:
    graph = parse_graph(GOOD, "guidance.yaml")
    assert graph.inputs == {"text": "string", "speaker": ("customer", "agent"), "is_final": "bool", "urgency": "float"}
    assert graph.nodes["report"] == Node(
        "python", ("tokens",), function="report", when="is_final", budget_ms=4.0, params={"depth": 3}
    )
    assert graph.outputs == ("report",)
    assert graph.file == "guidance.yaml"


def change(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "guidance.yaml: expected `object`, got `null`"),
        ("[1]", "guidance.yaml: expected `object`, got `array`"),
        ("name: [", "guidance.yaml: line 1, column 8: expected the node content"),
        ("name: *x", "guidance.yaml: line 1, column 7: found undefined alias"),
        ("name: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("? [name]\n: x", "guidance.yaml: line 1, column 3: found unhashable key"),
        ("name: !!int ''", "guidance.yaml: is no YAML: "),
        ("name: !!bool maybe", "guidance.yaml: is no YAML: "),
        (
            change("urgency: float", "before: carry, older: carry"),
            "guidance.yaml: inputs: a turn has one turn before it",
        ),
        (change("text: string", "naïve: string"), "guidance.yaml: inputs.naïve: is no name"),
        (change("budget_ms: 4", "budget_ms: .inf"), "nodes.report.budget_ms: expected `float`"),
        (change("budget_ms: 4", "budget_ms: .nan"), "nodes.report.budget_ms: expected `float`"),
        ("\tname: x", "guidance.yaml: line 1, column 1: found character"),
        ("[" * 1000, "guidance.yaml: is no YAML: RecursionError"),
        (change("name: guidance", "name: 3"), "guidance.yaml: name: expected `str`, got `int`"),
        (change("name: guidance", ""), "guidance.yaml: object missing required field `name`"),
        (change("outputs: [report]", ""), "guidance.yaml: object missing required field `outputs`"),
        (change("outputs: [report]", "outputs: []"), "guidance.yaml: outputs: names no node"),
        (
            change("[report]", "[report, report]"),
            r"guidance.yaml: outputs\[1\]: is listed twice; given report",
        ),
        (change("[report]", "[report, 1]"), r"guidance.yaml: outputs\[1\]: expected `str`, got `int`"),
        (change("outputs:", "result: x\noutputs:"), "guidance.yaml: object contains unknown field `result`"),
        (change("text: string", "text: str"), "guidance.yaml: inputs.text: invalid enum value 'str'"),
        (change("text: string", "text: 7"), "guidance.yaml: inputs.text: expected"),
        (change("text: string", "and: string"), "guidance.yaml: inputs.and: is no name"),
        (change("text: string", "a-b: string"), "guidance.yaml: inputs.a-b: is no name"),
        (
            change("text: string", "text: string, text: string"),
            "guidance.yaml: line 3, column 24: 'text' is declared twice",
        ),
        (change("[customer, agent]", "[customer]"), "guidance.yaml: inputs.speaker: bad list"),
        (change("[customer, agent]", "[customer, customer]"), r"inputs.speaker: bad list.*two or more different words"),
        (change("[customer, agent]", "[yes, no]"), r"guidance.yaml: inputs.speaker\[0\]: expected `str`, got `bool`"),
        (change("op: tokenize", "op: tokenise"), "guidance.yaml: nodes.tokens.op: invalid enum value 'tokenise'"),
        (change("op: tokenize, ", ""), "guidance.yaml: nodes.tokens: object missing required field `op`"),
        (change("model: utterance", "modell: utterance"), "nodes.tokens: object contains unknown field `modell`"),
        (change("inputs: [text]", "inputs: text"), "guidance.yaml: nodes.tokens.inputs: expected `array`, got `str`"),
        (change("inputs: [text]", "inputs: [[text]]"), r"nodes.tokens.inputs\[0\]: expected `str`, got `array`"),
        (change("budget_ms: 4", "budget_ms: -4"), "guidance.yaml: nodes.report.budget_ms: expected `float` > 0.0"),
        (
            change("budget_ms: 4", "budget_ms: fast"),
            "guidance.yaml: nodes.report.budget_ms: expected `float.*got `str`",
        ),
        (change("when: is_final", "when: true"), "guidance.yaml: nodes.report.when: expected `str.*got `bool`"),
        (change("  report:", "  tokens:"), "guidance.yaml: line 6, column 3: 'tokens' is declared twice"),
        (change("  report:", "  text:"), "guidance.yaml: nodes.text: is an input already"),
        (change("  report:", "  re.port:"), "guidance.yaml: nodes.re.port: is no name"),
        (change("  report:", "  7:"), "guidance.yaml: nodes: expected `str`, got `int`"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        parse_graph(text, "guidance.yaml")


@given(st.text(max_size=60))
def test_any_text_is_a_graph_or_refused(text: str) -> None:
    with pytest.raises(GraphError):
        parse_graph(text, "guidance.yaml")


def test_files_are_named_after_their_graph(tmp_path: Path) -> None:
    (tmp_path / "guidance.yaml").write_text(GOOD)
    assert list(load_graphs(tmp_path)) == ["guidance"]
    (tmp_path / "other.yaml").write_text(GOOD)
    with pytest.raises(GraphError, match=r"other.yaml: name: is not the file's name; expected other, given guidance"):
        load_graphs(tmp_path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"guidance.yaml: cannot be read \(FileNotFoundError\)"):
        read_graph(tmp_path / "guidance.yaml")
    (tmp_path / "guidance.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GraphError, match=r"guidance.yaml: cannot be read \(UnicodeDecodeError\)"):
        read_graph(tmp_path / "guidance.yaml")


def test_the_shipped_graphs_are_read() -> None:
    graphs = load_graphs(Path(__file__).parents[2] / "graphs")
    assert set(graphs["guidance"].outputs) >= {"intent", "sentiment", "acts", "actions", "question", "moments"}
