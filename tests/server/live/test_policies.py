"""Policies and model versions: examples belong to the version that embedded them, pins keep a version loaded."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from inference.engine import Engine
from inference.graph import parse_graph
from inference.life.loader import Loader
from inference.life.settings import LifeSettings
from inference.repository import ModelRepository
from server.config.settings import EngineSettings
from server.live.policies import Policies
from server.metrics import Metrics
from server.orchestrator import Orchestrator
from server.orchestrator.graphs import offers
from server.wire.errors import ConfigError
from server.wire.ids import TenantId
from tests.inference.life.folders import drop_version, write_repository

GRAPH = parse_graph(
    """
name: guidance
inputs: {text: string, speaker: [customer, agent], is_final: bool}
nodes:
  tokens:    {op: tokenize, model: utterance, inputs: [text]}
  utterance: {op: model, model: utterance, inputs: [tokens]}
  intent:    {op: classify, inputs: [utterance.intent_logits]}
  moments:   {op: classify, inputs: [utterance.embedding], prototypes: tenant}
outputs: [intent, moments]
""",
    "guidance.yaml",
)
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
SHOP = TenantId("shop")


class Rig:
    def __init__(self, engine: Engine, loader: Loader, policies: Policies, folder: Path) -> None:
        self.engine, self.loader, self.policies, self.folder = engine, loader, policies, folder


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


async def test_a_pinned_version_is_loaded_and_needed_as_long_as_a_call_has_the_policy(rig: Rig) -> None:
    (rig.folder / "shop.yaml").write_text(POLICY + "pins: {utterance: 1}\n")
    await rig.policies.start()
    assert rig.engine.versions("utterance") == (2, 1)
    call = rig.policies.pin(SHOP)
    assert call.guide.pins == {"utterance": 1}
    assert rig.policies.pins() == {("utterance", 1)}
    for policy in await _reloaded(rig, POLICY.replace("version: 1", "version: 2")):
        await rig.policies._prepare(policy)
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
