"""Models that take tensors, and pooling: dtype, rank and length have to fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.compile import compile_graph
from inference.errors import GraphError
from inference.graph import Graph, Node
from inference.plan import Op
from inference.repository import ModelRepository
from tests.inference.model_folders import write_model, write_scorer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    folder: Path = tmp_path_factory.mktemp("models") / "model_repo"
    hidden = 'output { name: "hidden" data_type: TYPE_FP32 dims: [-1, 4] }'
    write_model(folder, "utterance", extra=hidden)
    write_model(folder, "foreign", extra=hidden, tokenizer='{"other": 1}')
    write_scorer(folder, "one", "FP32[4]")
    write_scorer(folder, "two", "FP32[4]", "FP32[4]")
    write_scorer(folder, "any", "FP32[-1]")
    write_scorer(folder, "half", "FP16[4]")
    write_scorer(folder, "wide", "FP32[5]")
    write_scorer(folder, "matrix", "FP32[-1,4]")
    opened = ModelRepository.open(folder)
    assert not opened.problems
    return opened


def graph(**nodes: Node) -> Graph:
    base = {
        "tokens": Node("tokenize", ("text",), model="utterance"),
        "encoder": Node("model", ("tokens",), model="utterance"),
        "pooled": Node("pool", ("encoder.hidden", "tokens")),
    }
    return Graph("g", {"text": "string"}, base | nodes, (list(nodes)[-1],))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("one", ("encoder.embedding",)),
        ("one", ("pooled",)),
        ("any", ("encoder.intent_logits",)),
        ("two", ("encoder.embedding", "pooled")),
        ("matrix", ("encoder.hidden",)),
    ],
)
def test_a_model_behind_a_model(model: str, inputs: tuple[str, ...], models: ModelRepository) -> None:
    plan = compile_graph(
        graph(scorer=Node("model", inputs, model=model), value=Node("classify", ("scorer.score",))),
        None,
        models,
        backends=["onnxruntime"],
    )
    assert [step.model for step in plan.steps if step.op is Op.MODEL] == ["utterance", model]
    assert set(plan.buckets) == {"utterance", model}


@pytest.mark.parametrize(
    ("model", "inputs", "input", "expected", "given"),
    [
        ("half", ("encoder.embedding",), "encoder.embedding", "x0 FP16[4]", "FP32[4]"),
        ("wide", ("encoder.embedding",), "encoder.embedding", "x0 FP32[5]", "FP32[4]"),
        ("one", ("encoder.hidden",), "encoder.hidden", "x0 FP32[4]", "FP32[-1,4]"),
        ("one", ("tokens",), "tokens", "x0 FP32[4]", "tokens of utterance"),
        ("two", ("pooled",), "", "2 (x0 FP32[4], x1 FP32[4])", "1"),
        ("two", ("pooled", "encoder.intent_logits"), "encoder.intent_logits", "x1 FP32[4]", "FP32[3]"),
    ],
)
def test_tensors_that_do_not_fit(
    model: str, inputs: tuple[str, ...], input: str, expected: str, given: str, models: ModelRepository
) -> None:
    nodes = graph(scorer=Node("model", inputs, model=model), value=Node("classify", ("scorer.score",)))
    with pytest.raises(GraphError) as caught:
        compile_graph(nodes, None, models, backends=["onnxruntime"])
    error = caught.value
    assert (error.node, error.input, error.expected, error.given) == ("scorer", input, expected, given)


def test_pooling_needs_the_tokens_that_the_rows_were_made_of(models: ModelRepository) -> None:
    other = Node("tokenize", ("text",), model="foreign")
    nodes = graph(other=other, faulty=Node("pool", ("encoder.hidden", "other")))
    with pytest.raises(GraphError, match="expected tokens of utterance, given tokens of foreign"):
        compile_graph(nodes, None, models, backends=["onnxruntime"])


@pytest.mark.parametrize(("mode", "given"), [(None, "mean"), ("max", "max"), ("first", "first")])
def test_pooling_modes(mode: str | None, given: str, models: ModelRepository) -> None:
    pooled = Node("pool", ("encoder.hidden", "tokens"), mode=mode)  # type: ignore[arg-type]
    plan = compile_graph(graph(vector=pooled), None, models, backends=["onnxruntime"])
    assert plan.steps[-1].params == {"mode": given}


def test_prototypes_need_vectors_of_one_model(models: ModelRepository) -> None:
    nodes = {
        "words": Node("tokenize", ("text",), model="foreign"),
        "stranger": Node("model", ("words",), model="foreign"),
        "either": Node("select", ("encoder.embedding", "stranger.embedding")),
        "faulty": Node("classify", ("either",), prototypes="tenant"),
    }
    with pytest.raises(GraphError, match="compares vectors of one model"):
        compile_graph(graph(**nodes), None, models, backends=["onnxruntime"])
    same = Node("select", ("encoder.embedding", "pooled"))
    plan = compile_graph(graph(**{**nodes, "either": same}), None, models, backends=["onnxruntime"])
    assert (plan.steps[-1].model, plan.steps[-1].tensors) == ("utterance", ())
