from __future__ import annotations

from pathlib import Path

import pytest

from inference.compile import PlanCache
from inference.errors import GraphError
from inference.graph import Graph, Node, parse_graph
from inference.repository import ModelRepository
from tests.inference.compile.test_compiler import BACKENDS, GUIDANCE
from tests.inference.model_folders import HEADS, write_model


@pytest.fixture
def guidance() -> Graph:
    return parse_graph(GUIDANCE, "guidance.yaml")


def test_the_same_question_is_compiled_once(guidance: Graph, repository: ModelRepository) -> None:
    cache = PlanCache()
    first = cache.plan(guidance, ["intent", "question"], repository, backends=BACKENDS)
    again = cache.plan(parse_graph(GUIDANCE, "x.yaml"), ["question", "intent"], repository, backends=BACKENDS)
    assert again is first
    assert cache.num_compiled == 1


def test_equal_structures_are_one_plan(guidance: Graph, repository: ModelRepository) -> None:
    """A graph that changed where this policy does not look keeps the plan, and with it the batches."""
    cache = PlanCache()
    first = cache.plan(guidance, ["intent"], repository, backends=BACKENDS)
    changed = parse_graph(GUIDANCE.replace("budget_ms: 10", "budget_ms: 20"), "guidance.yaml")
    assert cache.plan(changed, ["intent"], repository, backends=BACKENDS) is first
    assert (cache.num_compiled, len(cache)) == (2, 1)
    assert cache.plan(changed, None, repository, backends=BACKENDS) is not first
    assert cache.plan(changed, ["intent"], repository, backends=["fake"]) is not first


def test_other_heads_are_another_plan(guidance: Graph, tmp_path: Path) -> None:
    cache = PlanCache()
    folder = write_model(tmp_path / "model_repo")
    before = cache.plan(guidance, ["intent"], ModelRepository.open(folder.parent), backends=BACKENDS)
    heads = {**HEADS, "intent_logits": {"kind": "single"}}
    write_model(tmp_path / "other" / "model_repo", heads=heads)
    after = cache.plan(guidance, ["intent"], ModelRepository.open(tmp_path / "other/model_repo"), backends=BACKENDS)
    assert before.steps[-1].tensors == ("intent_logits", "intent_scope")
    assert after.steps[-1].tensors == ("intent_logits",)


def test_the_least_recently_used_plan_goes_first(guidance: Graph, repository: ModelRepository) -> None:
    cache = PlanCache(max_plans=2)
    intent = cache.plan(guidance, ["intent"], repository, backends=BACKENDS)
    cache.plan(guidance, ["question"], repository, backends=BACKENDS)
    assert cache.plan(guidance, ["intent"], repository, backends=BACKENDS) is intent
    cache.plan(guidance, ["moments"], repository, backends=BACKENDS)
    assert len(cache) == 2
    assert cache.plan(guidance, ["intent"], repository, backends=BACKENDS) is intent
    assert cache.num_compiled == 3


def test_another_set_of_functions_is_another_question(repository: ModelRepository) -> None:
    nodes = {"shout": Node("python", ("text",), function="shout")}
    graph = Graph("loud", {"text": "string"}, nodes, ("shout",))
    cache = PlanCache()
    cache.plan(graph, None, repository, backends=BACKENDS, functions=["shout"])
    with pytest.raises(GraphError, match="unknown function"):
        cache.plan(graph, None, repository, backends=BACKENDS, functions=["whisper"])


def test_a_failure_is_not_cached(guidance: Graph, repository: ModelRepository) -> None:
    cache = PlanCache()
    for _ in range(2):
        with pytest.raises(GraphError):
            cache.plan(guidance, ["mood"], repository, backends=BACKENDS)
    assert len(cache) == 0
