"""From utterances to annotations, with what the turn before handed on: a real engine on a scripted fake."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from inference.backends.contract import Tensors
from inference.backends.fake import FakeBackend
from inference.engine import Engine
from inference.errors import GraphError
from inference.graph import Graph, parse_graph
from inference.repository import ModelRepository
from inference.request import Outcome
from server.config.settings import EngineSettings
from server.orchestrator import Guide, Orchestrator
from server.orchestrator.graphs import offers
from server.wire.clock import Stamps
from server.wire.ids import ConversationId, TenantId
from server.wire.publication import Annotation
from server.wire.utterance import Utterance
from tests.inference.model_folders import HEADS, write_model
from tests.inference.tiny_models import bert_tokenizer

GRAPH = """
name: guidance
inputs: {text: string, speaker: [customer, agent], is_final: bool, before: carry}
nodes:
  tokens:       {op: tokenize, model: utterance, inputs: [text]}
  utterance:    {op: model, model: utterance, inputs: [tokens]}
  dissatisfied: {op: classify, inputs: [utterance.dissatisfied_logits]}
  carry:        {op: select, inputs: [utterance.carry], when: is_final}
outputs: [dissatisfied, carry]
"""
PATIENT = EngineSettings(final_deadline_ms=60_000, interim_deadline_ms=60_000)


class Desk:
    """Says utterances of calls and waits for what is claimed of them."""

    def __init__(self, orchestrator: Orchestrator, guide: Guide, backend: FakeBackend) -> None:
        self.orchestrator, self.guide, self.backend = orchestrator, guide, backend
        self._revision = 0

    def begin(self, text: str, start_ms: int, *, call: str = "call", is_final: bool = True) -> asyncio.Future[Any]:
        self._revision += 1
        spoken = Utterance(
            tenant_id=TenantId("shop"),
            conversation_id=ConversationId(call),
            utterance_id=f"u{start_ms}",
            speaker="customer",
            start_ms=start_ms,
            end_ms=start_ms + 900,
            revision=self._revision,
            text=text,
            is_final=is_final,
        )
        said: dict[str, Any] = {}
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def note(_: Utterance, annotations: Sequence[Annotation], __: Stamps) -> None:
            said.update((annotation.output, annotation.value) for annotation in annotations)

        def done(_: Utterance, outcome: Outcome, error: BaseException | None) -> None:
            assert outcome is Outcome.DONE, error
            ended.set_result(said)

        self.orchestrator.annotate(self.guide, spoken, Stamps(), note, done)
        return ended

    async def say(self, text: str, start_ms: int, **how: Any) -> float:
        async with asyncio.timeout(60):
            said = await self.begin(text, start_ms, **how)
        assert set(said) == {"dissatisfied"}, "what is handed on is no annotation"
        return float(said["dissatisfied"]["score"])


def read(text: str) -> Graph:
    return parse_graph(text, "guidance.yaml")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    heads = {**HEADS, "dissatisfied_logits": {"kind": "binary", "carry": "carry"}}
    extra = 'output { name: "carry" data_type: TYPE_FP32 dims: [1] }'
    write_model(tmp_path, tokenizer=bert_tokenizer().to_str(), heads=heads, extra=extra)
    backend = FakeBackend(slots=2)
    engine = Engine(ModelRepository.open(tmp_path), backends={"fake": backend})
    await engine.start()
    orchestrator = Orchestrator(engine, {"guidance": read(GRAPH)}, PATIENT)
    guide = orchestrator.compile("shop@1", "guidance", ["dissatisfied"], None, {}, {})
    yield Desk(orchestrator, guide, backend)
    backend.script = lambda _: None
    await engine.stop()


async def test_a_final_changes_what_is_said_of_the_next_turn_and_of_no_other_call(desk: Desk) -> None:
    first = await desk.say("my card is lost", 0)
    alone = await desk.say("thank you", 0, call="other")
    after = await desk.say("thank you", 1000)
    assert after != alone
    assert await desk.say("thank you", 1000, is_final=False) == after  # its own final is not before it
    assert await desk.say("my card is lost", 0, call="third") == first
    assert await desk.say("thank you", 1000, call="third") == after


async def test_an_interim_hands_nothing_on(desk: Desk) -> None:
    alone = await desk.say("thank you", 0, call="other")
    await desk.say("my card is lost", 0, is_final=False)
    assert await desk.say("thank you", 1000) == alone


async def test_a_final_that_is_still_computed_holds_nobody_up(desk: Desk) -> None:
    alone = await desk.say("thank you", 0, call="other")
    await desk.say("order now", 0)
    may_run, entered = threading.Event(), threading.Event()

    def hold(inputs: Tensors) -> None:
        if inputs["input_ids"].shape[1] > 5:  # the long one
            entered.set()
            assert may_run.wait(timeout=60)

    desk.backend.script = hold
    late = desk.begin("my card is lost please help me now", 1000)
    assert await asyncio.to_thread(entered.wait, 60)
    assert await desk.say("thank you", 2000) == alone
    may_run.set()
    async with asyncio.timeout(60):
        await late
    assert await desk.say("thank you", 2000) != alone


async def test_a_call_that_is_over_is_forgotten(desk: Desk) -> None:
    alone = await desk.say("thank you", 0, call="other")
    await desk.say("my card is lost", 0)
    desk.orchestrator.cancel("shop/call")
    assert await desk.say("thank you", 1000) == alone


async def test_a_graph_may_do_without(desk: Desk) -> None:
    engine = desk.orchestrator._engine
    plain = GRAPH.replace(", before: carry", "")
    orchestrator = Orchestrator(engine, {"guidance": read(plain)}, PATIENT)
    guide = orchestrator.compile("shop@1", "guidance", ["dissatisfied"], None, {}, {})
    assert (guide.carry_input, set(guide.plan.outputs)) == ("", {"dissatisfied"})


def test_no_policy_may_ask_for_what_is_handed_on(tmp_path: Path) -> None:
    extra = 'output { name: "carry" data_type: TYPE_FP32 dims: [1] }'
    write_model(tmp_path, extra=extra)
    assert set(offers({"guidance": read(GRAPH)}, ModelRepository.open(tmp_path))["guidance"]) == {"dissatisfied"}
    with pytest.raises(GraphError, match="one turn before"):
        read(GRAPH.replace("before: carry", "before: carry, older: carry"))


async def test_the_first_turn_in_another_process_is_judged_as_it_would_have_been(desk: Desk) -> None:
    await desk.say("my card is lost", 0)
    alone = await desk.say("thank you", 0, call="other")
    turns = desk.orchestrator.turns("shop/call")
    stayed = await desk.say("thank you", 1000)
    desk.orchestrator.cancel("shop/call")
    assert await desk.say("thank you", 1000) == alone
    desk.orchestrator.go_on_after("shop/call", turns)
    assert await desk.say("thank you", 1000) == stayed != alone
