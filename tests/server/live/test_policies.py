"""Policies and model versions: examples belong to the version that embedded them, pins keep a version loaded."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from inference.engine import Engine
from inference.graph import parse_graph
from inference.life.loader import Loader
from inference.life.settings import LifeSettings
from inference.repository import ModelRepository
from inference.request import Outcome
from server.config.settings import EngineSettings
from server.live.policies import Policies
from server.metrics import Metrics
from server.orchestrator import Guide, Orchestrator
from server.orchestrator.graphs import offers
from server.wire.clock import Stamps
from server.wire.errors import ConfigError
from server.wire.ids import ConversationId, Speaker, TenantId, UtteranceId
from server.wire.publication import Annotation
from server.wire.utterance import Utterance
from tests.inference.life.folders import drop_version, write_repository

SOURCE = """
name: guidance
inputs: {text: string, speaker: [customer, agent], is_final: bool}
nodes:
  tokens:    {op: tokenize, model: utterance, inputs: [text]}
  utterance: {op: model, model: utterance, inputs: [tokens]}
  intent:    {op: classify, inputs: [utterance.intent_logits]}
  actions:   {op: classify, inputs: [utterance.actions_logits]}
  moments:   {op: classify, inputs: [utterance.embedding], prototypes: tenant}
outputs: [intent, actions, moments]
"""
GRAPH = parse_graph(SOURCE, "guidance.yaml")
POLICY = """
tenant: shop
version: 1
graph: guidance
languages: [en]
outputs: {intent: {}, moments: {}}
moments:
  - {id: lost, speaker: customer, semantic: [my card is lost, help me now]}
actions:
  - {id: block, on: lost, type: hint, title: Block it}
"""
OWN_ACTIONS = """
tenant: shop
version: 1
graph: guidance
outputs:
  actions:
    examples:
      call_back: {phrases: [i call you back tomorrow, we call again]}
      ask_card: {speaker: customer, phrases: [where is my card]}
"""
SHOP = TenantId("shop")


class Rig:
    def __init__(self, engine: Engine, loader: Loader, policies: Policies, folder: Path) -> None:
        self.engine, self.loader, self.policies, self.folder = engine, loader, policies, folder
        self.orchestrator = policies._orchestrator

    async def annotate(self, guide: Guide, text: str, speaker: Speaker) -> list[list[Annotation]]:
        """What is published of one final, together what came together."""
        spoken = Utterance(
            tenant_id=SHOP,
            conversation_id=ConversationId("call"),
            utterance_id=UtteranceId(f"{speaker} {text}"),
            speaker=speaker,
            start_ms=0,
            end_ms=900,
            revision=1,
            text=text,
            is_final=True,
        )
        said: list[list[Annotation]] = []
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(_: Utterance, outcome: Outcome, error: BaseException | None) -> None:
            assert outcome is Outcome.DONE, error
            ended.set_result(None)

        self.orchestrator.annotate(guide, spoken, Stamps(), lambda _, found, __: said.append(list(found)), done)
        async with asyncio.timeout(60):
            await ended
        return said


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    repository = write_repository(tmp_path / "model_repo")
    drop_version(repository, 2)
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "general_negatives.txt").write_text("thank you\nplease order\n")
    engine = Engine(ModelRepository.open(repository))
    await engine.start()
    loader = Loader(engine, repository, LifeSettings(max_latency_ratio=1e9), None)
    metrics = Metrics()
    graphs = {"guidance": GRAPH}
    policies = Policies(
        folder, offers(graphs, engine.repository), Orchestrator(engine, graphs, EngineSettings()), metrics, loader
    )
    loader.consumers.append(policies)
    yield Rig(engine, loader, policies, folder)
    await policies.stop()
    await loader.stop()
    await engine.stop()


async def test_examples_are_embedded_for_every_version_before_it_answers(rig: Rig) -> None:
    (rig.folder / "shop.yaml").write_text(POLICY)
    await rig.policies.start()
    pinned = rig.policies.pin(SHOP)
    prototypes = pinned.guide.prototypes
    assert prototypes is not None
    assert set(prototypes) == {2}
    await rig.loader.load("utterance", 1)
    assert set(prototypes) == {2, 1}  # the call under way has them, too
    assert (prototypes[1].vectors[:2] != prototypes[2].vectors[:2]).any()
    for version in (1, 2):
        inputs = {"text": "my card is lost", "speaker": "customer", "is_final": True}
        outputs = await rig.engine.run(
            pinned.guide.plan, inputs, prototypes=prototypes, pins={"utterance": version}, owner="call"
        )
        assert outputs["moments"].value[0]["score"] == pytest.approx(1.0, abs=1e-5)
        assert outputs["moments"].version == version
    rig.engine.serve_version("utterance", 1)
    assert rig.policies.pin(SHOP).guide is pinned.guide


async def test_own_actions_are_published_with_those_of_the_model_by_every_version(rig: Rig) -> None:
    (rig.folder / "shop.yaml").write_text(OWN_ACTIONS)
    await rig.policies.start()
    guide = rig.policies.pin(SHOP).guide
    catalogue = rig.engine.repository.model("utterance").latest.labels["actions_logits"]
    for version in (2, 1):
        if version == 1:
            await rig.loader.load("utterance", 1)
            rig.engine.serve_version("utterance", 1)
        (together,) = await rig.annotate(guide, "we call again", "agent")
        published = {annotation.output: annotation for annotation in together}
        assert published["moments"].value == []
        assert published["moments"].score is None
        actions = published["actions"]
        assert actions.version == version
        labels = [claim["label"] for claim in actions.value]
        assert {"call_back"} < set(labels) <= {"call_back", *catalogue}
        scores = [claim["score"] for claim in actions.value]
        assert scores == sorted(scores, reverse=True)
        assert actions.score == scores[0]
        (other,) = await rig.annotate(guide, "we call again", "customer")
        rest = next(annotation.value for annotation in other if annotation.output == "actions")
        assert "call_back" not in [claim["label"] for claim in rest]


async def test_a_graph_that_finds_actions_later_than_moments_takes_no_own_actions(rig: Rig) -> None:
    text = SOURCE.replace("[utterance.actions_logits]}", "[utterance.actions_logits], when: intent.score > 0.5}")
    rig.orchestrator._graphs = {"guidance": parse_graph(text, "guidance.yaml")}
    (rig.folder / "shop.yaml").write_text(OWN_ACTIONS)
    with pytest.raises(ConfigError, match="in one pass") as caught:
        await rig.policies.start()
    assert str(caught.value.field).endswith("outputs.actions.examples")


async def test_a_pinned_version_is_loaded_and_needed_as_long_as_a_call_has_the_policy(rig: Rig) -> None:
    (rig.folder / "shop.yaml").write_text(POLICY + "pins: {utterance: 1}\n")
    await rig.policies.start()
    assert rig.engine.versions("utterance") == (2, 1)
    call = rig.policies.pin(SHOP)
    assert call.guide.pins == {"utterance": 1}
    assert rig.policies.pins() == {("utterance", 1)}
    for policy in await _reloaded(rig, POLICY.replace("version: 1", "version: 2")):
        await rig.policies.guide(policy)
    assert rig.policies.pins() == {("utterance", 1)}
    del call
    gc.collect()
    assert rig.policies.pins() == frozenset()


async def test_a_policy_that_pins_what_cannot_be_loaded_is_refused_with_its_place(rig: Rig) -> None:
    (rig.folder / "shop.yaml").write_text(POLICY + "pins: {utterance: 7}\n")
    with pytest.raises(ConfigError, match="there is no such version") as caught:
        await rig.policies.start()
    assert str(caught.value.field).endswith("pins.utterance")


async def _reloaded(rig: Rig, text: str):
    (rig.folder / "shop.yaml").write_text(text)
    return rig.policies._store.poll().loaded
