"""Versions of the shipped model in a running server: dropped in, promoted, compared, rolled back, refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from server.cli.models import models
from tests.integration.peers import Peer, connect, utterance
from tests.integration.running import RunningServer, serve, wait_until
from tests.integration.shipped_model import BUILT, drop, shipped_repository

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shipped_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = {
        "CUELINE_PATHS__MODEL_REPO": str(repository),
        "CUELINE_MODELS__POLL_S": "0.2",
        "CUELINE_MODELS__SETTLE_S": "0.2",
        "CUELINE_MODELS__MAX_LATENCY_RATIO": "50",
    }
    with serve(tmp_path_factory.mktemp("data"), **settings) as running:
        yield running


def command(server: RunningServer, *words: str) -> str:
    result = CliRunner().invoke(models, [*words, "--url", server.url], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def state(server: RunningServer, number: int) -> dict[str, Any]:
    answer = json.loads(command(server, "status", "--json"))
    assert answer["running"]
    (model,) = answer["models"]
    return next((version for version in model["versions"] if version["version"] == number), {"state": ""})


def is_in(server: RunningServer, number: int, wanted: str) -> bool:
    return wait_until(lambda: state(server, number)["state"] == wanted, timeout_s=60.0)


async def annotated_by(server: RunningServer, conversation: str, text: str) -> None:
    async with connect(f"{server.ws}/v1/ingest/transcripts") as socket:
        peer = Peer(socket)
        await peer.send({"type": "start", "conversation_id": conversation})
        await peer.receive_type("started")
        for turn in range(8):
            await peer.send(utterance(f"u{turn}", f"{text} {turn}"))
        for _ in range(8):
            await peer.receive_type("ack")
        await peer.send({"type": "stop"})
        await peer.receive_type("stopped")


async def test_a_version_is_dropped_in_compared_promoted_and_rolled_back(
    server: RunningServer, repository: Path
) -> None:
    model = repository / "utterance"
    assert state(server, 1)["is_proven"]
    bad = drop(model, 2)
    weights = bad / BUILT
    content = weights.read_bytes()
    weights.unlink()  # the link, not the shipped file
    weights.write_bytes(content[: len(content) // 2])
    assert is_in(server, 2, "refused"), command(server, "status")
    assert "cannot load it" in state(server, 2)["reason"]

    drop(model, 3)
    assert is_in(server, 3, "serving"), command(server, "status")
    assert state(server, 1)["state"] == "standby"
    await annotated_by(server, "versions-1", "i was charged twice for my october bill")
    assert wait_until(lambda: state(server, 3)["rows"] >= 8)

    assert "version 1 answers" in command(server, "rollback")
    assert state(server, 3)["state"] == "rolled_back"
    command(server, "promote", "--version", "3", "--shadow", "1.0")
    await annotated_by(server, "versions-2", "my technician did not show up")
    assert wait_until(lambda: state(server, 3)["agreement"].get("intent", {}).get("rows", 0) >= 4), state(server, 3)
    agreement = state(server, 3)["agreement"]
    assert all(output["agreed_ratio"] == 1.0 for output in agreement.values())  # they are the same weights
    assert "moments" in agreement  # compared with examples that the version itself embedded
    assert "version 3 in shadow" in command(server, "status")

    metrics = server.metrics()
    assert metrics['cueline_model_serving_version{model="utterance"}'] == 1
    assert metrics['cueline_model_candidate_version{model="utterance"}'] == 3
    assert metrics['cueline_model_changes_total{change="rolled_back",model="utterance"}'] == 1
    assert any(name.startswith("cueline_shadow_rows_total{") for name in metrics)


def test_what_cannot_be_done_is_said(server: RunningServer) -> None:
    result = CliRunner().invoke(models, ["promote", "--version", "77", "--url", server.url])
    assert result.exit_code == 1
    assert "there is no such version" in result.output
