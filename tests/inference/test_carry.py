"""Context of the turn before: what a turn hands on changes the next one's heads, and nothing else of the engine."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.backends.fake import FakeBackend
from inference.compile import compile_graph
from inference.engine import Engine
from inference.errors import GraphError
from inference.graph import parse_graph
from inference.life.shadow import Shadow, hand_on_alike
from inference.plan import Plan
from inference.repository import ModelRepository
from inference.request import Carry, Output
from tests.inference.engine.running import running
from tests.inference.model_folders import HEADS, write_model
from tests.inference.tiny_models import bert_tokenizer

TEXT = """
name: guidance
inputs: {text: string, speaker: [customer, agent], before: carry}
nodes:
  tokens:       {op: tokenize, model: utterance, inputs: [text]}
  utterance:    {op: model, model: utterance, inputs: [tokens]}
  intent:       {op: classify, inputs: [utterance.intent_logits]}
  dissatisfied: {op: classify, inputs: [utterance.dissatisfied_logits], when: speaker == customer}
  actions:      {op: classify, inputs: [utterance.actions_logits]}
  carry:        {op: select, inputs: [utterance.carry]}
outputs: [intent, dissatisfied, actions, carry]
"""
GRAPH = parse_graph(TEXT, "guidance.yaml")
CARRYING = {
    **HEADS,
    "dissatisfied_logits": {"kind": "binary", "carry": "carry"},
    "actions_logits": {**HEADS["actions_logits"], "threshold": 0.01, "carry": "carry", "carry_first": 1},
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    extra = 'output { name: "carry" data_type: TYPE_FP32 dims: [4] }'
    write_model(tmp_path, tokenizer=bert_tokenizer().to_str(), heads=CARRYING, extra=extra)
    return tmp_path


async def ask(
    engine: Engine, plan: Plan, text: str, before: Carry | None = None, speaker: str = "agent"
) -> dict[str, Any]:
    """Values of one turn; the carry as it is handed to the next."""
    found = await engine.run(plan, {"text": text, "speaker": speaker, "before": before})
    return {name: handed_on(output) if name == "carry" else output.value for name, output in found.items()}


def handed_on(output: Output) -> Carry:
    return Carry(output.model, output.version, output.value)


def carry(*numbers: float, version: int = 1) -> Carry:
    return Carry("utterance", version, np.array(numbers, np.float32))


async def test_a_turn_hands_on_what_the_model_says_under_its_version(repository: Path) -> None:
    async with running(repository, backend=FakeBackend()) as engine:
        handed = (await ask(engine, engine.compile(GRAPH, None), "my card is lost"))["carry"]
    assert (handed.model, handed.version, handed.numbers.shape) == ("utterance", 1, (4,))


@pytest.mark.parametrize("memo_rows", [0, 64])
async def test_it_is_added_to_the_logits_of_the_heads_that_take_it(repository: Path, memo_rows: int) -> None:
    async with running(repository, backend=FakeBackend(), memo_rows=memo_rows) as engine:
        plan = engine.compile(GRAPH, None)
        first = await ask(engine, plan, "my card is lost", speaker="customer")
        moved = await ask(engine, plan, "my card is lost", carry(2, 0, 0, 0), speaker="customer")
        again = await ask(engine, plan, "my card is lost", speaker="customer")
    logit = np.log(first["dissatisfied"]["score"] / (1 - first["dissatisfied"]["score"]))
    assert moved["dissatisfied"]["score"] == pytest.approx(1 / (1 + np.exp(-logit - 2)), abs=1e-5)
    assert moved["intent"] == first["intent"]
    np.testing.assert_array_equal(moved["carry"].numbers, first["carry"].numbers)  # one turn back, no further
    assert again["dissatisfied"] == first["dissatisfied"]  # memory kept the sentence, not what was before it


async def test_labels_come_and_go_with_it_but_stay_the_speakers_own(repository: Path) -> None:
    async with running(repository, backend=FakeBackend()) as engine:
        plan = engine.compile(GRAPH, ["actions"])
        loud, silent = carry(0, 50, -50, 50), carry(0, -50, -50, -50)
        said = (await ask(engine, plan, "thank you", loud))["actions"]
        assert [claim["label"] for claim in said] == ["verify", "close"]
        assert (await ask(engine, plan, "thank you", silent))["actions"] == []
        assert (await ask(engine, plan, "thank you", loud, speaker="customer"))["actions"] == []


@pytest.mark.parametrize("stranger", [carry(9, 9, 9, 9, version=2), carry(np.nan, 0, 0, 0)])
async def test_numbers_of_another_version_or_no_numbers_are_left_aside(repository: Path, stranger: Carry) -> None:
    async with running(repository, backend=FakeBackend()) as engine:
        plan = engine.compile(GRAPH, ["actions", "dissatisfied"])
        alone = await ask(engine, plan, "order now", speaker="customer")
        assert await ask(engine, plan, "order now", stranger, speaker="customer") == alone


async def test_turns_of_one_batch_keep_what_is_before_each(repository: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ["my card is lost", "thank you", "order now", "thank you", "help"] * 8
    befores = [carry(*rng.normal(size=4)) if place % 3 else None for place in range(len(texts))]
    async with running(repository, backend=FakeBackend(), memo_rows=0) as engine:
        plan = engine.compile(GRAPH, ["actions", "dissatisfied"])
        pairs = list(zip(texts, befores, strict=True))
        alone = [await ask(engine, plan, *pair, speaker="customer") for pair in pairs]
        num_batches = engine.stats().batches
        together = await asyncio.gather(*(ask(engine, plan, *pair, speaker="customer") for pair in pairs))
        assert engine.stats().batches - num_batches < len(texts) / 2, "no batches were formed"
    assert together == alone
    assert together[1] != together[3]  # the same words, another turn before


def test_a_graph_without_it_takes_every_turn_for_the_first(repository: Path) -> None:
    models = ModelRepository.open(repository)
    graph = parse_graph(TEXT.replace(", before: carry", ""), "guidance.yaml")
    plan = compile_graph(graph, ["actions"], models, backends=["fake"])
    assert [plan.slots[slot] for slot in plan.steps[-1].inputs] == ["utterance.actions_logits", "speaker"]
    plan = compile_graph(GRAPH, ["actions"], models, backends=["fake"])
    assert [plan.slots[slot] for slot in plan.steps[-1].inputs] == ["utterance.actions_logits", "speaker", "before"]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("{op: classify, inputs: [utterance.intent_logits], when: before}", "cannot be compared"),
        ("{op: select, inputs: [before]}", "a value or a tensor"),
        ("{op: tokenize, model: utterance, inputs: [before]}", "given a carry"),
    ],
)
def test_a_carry_is_nothing_to_look_at(repository: Path, node: str, message: str) -> None:
    wrong = parse_graph(TEXT.replace("{op: select, inputs: [utterance.carry]}", node), "guidance.yaml")
    with pytest.raises(GraphError, match=message):
        compile_graph(wrong, None, ModelRepository.open(repository), backends=["fake"])


@pytest.mark.parametrize("reads_carry", [True, False])
async def test_a_shadow_of_the_same_weights_agrees_once_it_is_told_the_turn_before(
    tmp_path: Path, reads_carry: bool
) -> None:
    extra = 'output { name: "carry" data_type: TYPE_FP32 dims: [4] }'
    write_model(tmp_path, versions=(1, 2), tokenizer=bert_tokenizer().to_str(), heads=CARRYING, extra=extra)
    versions = ModelRepository.open(tmp_path).models["utterance"].versions
    compared = asyncio.Queue[tuple[str, str]]()
    async with running(tmp_path, backend=FakeBackend()) as engine:
        serving = engine.service("utterance").version.version
        candidate = 3 - serving
        await engine.load_version(versions[candidate])
        shadow = Shadow(
            "utterance",
            candidate,
            1.0,
            engine.submit,
            clock=time.monotonic,
            reads_carry=reads_carry,
            on_compared=lambda *found: compared.put_nowait(found),
        )
        engine.followers["utterance"] = shadow
        plan = engine.compile(GRAPH, ["actions"])
        await ask(engine, plan, "thank you", carry(0, -50, -50, -50, version=serving))
        async with asyncio.timeout(30):
            found = await compared.get()
    assert found == ("actions", "agreed" if reads_carry else "differed")


def test_a_version_reads_what_another_hands_on_where_their_heads_lie_alike(tmp_path: Path) -> None:
    extra = 'output { name: "carry" data_type: TYPE_FP32 dims: [4] }'
    moved = {**CARRYING, "actions_logits": {**CARRYING["actions_logits"], "carry_first": 0}}
    found = []
    for name, heads in (("one", CARRYING), ("two", CARRYING), ("moved", moved)):
        write_model(tmp_path / name, heads=heads, extra=extra)
        found.append(ModelRepository.open(tmp_path / name).models["utterance"].latest)
    assert hand_on_alike(found[0], found[1])
    assert not hand_on_alike(found[0], found[2])
