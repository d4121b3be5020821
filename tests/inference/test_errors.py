from __future__ import annotations

from inference.errors import GraphError, InferenceError, ModelError, ModelFailed, OverloadedError


def test_codes_are_stable() -> None:
    codes = {
        kind.__name__: (kind.code, kind.retryable) for kind in (GraphError, ModelError, OverloadedError, ModelFailed)
    }
    assert codes == {
        "GraphError": ("bad_graph", False),
        "ModelError": ("bad_model", False),
        "OverloadedError": ("overloaded", True),
        "ModelFailed": ("model_failed", False),
    }
    assert InferenceError("x", field="a.b").field == "a.b"


def test_a_graph_error_names_everything() -> None:
    error = GraphError("wrong type", graph="g.yaml", node="n", input="a.b", expected="bool", given="'x'")
    assert str(error) == "g.yaml: nodes.n.inputs (input a.b): wrong type; expected bool, given 'x'"
    assert str(GraphError("odd", graph="g.yaml", node="n", input="when")) == "g.yaml: nodes.n.when: odd"
    assert str(GraphError("odd", graph="g.yaml")) == "g.yaml: odd"


def test_a_model_error_names_file_and_key() -> None:
    assert str(ModelError("is missing", path="repo/m/config.pbtxt", key="backend")) == (
        "repo/m/config.pbtxt: backend: is missing"
    )
