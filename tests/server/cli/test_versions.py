from __future__ import annotations

import json
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from inference.life.file import write_records
from inference.life.record import Record, SetAside
from inference.life.status import AgreementStatus, ModelStatus, VersionStatus
from inference.life.watch import scan
from server.cli import versions
from server.cli.models import models
from server.wire.errors import Unavailable
from tests.inference.life.folders import write_repository


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    repository = write_repository(tmp_path / "model_repo", versions=(1, 2, 3))
    monkeypatch.setenv("CUELINE_PATHS__MODEL_REPO", str(repository))
    monkeypatch.setenv("CUELINE_DATA_DIR", str(tmp_path / "data"))
    return repository


def run(*words: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(models, list(words))
    assert result.exit_code == exit_code, (result.output, result.exception)
    return result.output


def test_without_a_server_the_folders_are_described(folders: Path, tmp_path: Path) -> None:
    seen = scan(folders)["utterance"]
    aside = {3: SetAside("rolled_back", "5 rows failed one after another", seen[3], 1.0)}
    write_records(tmp_path / "data" / "models.json", {"utterance": Record(serving=1, previous=2, set_aside=aside)})
    answer = json.loads(run("status", "--offline", "--json"))
    assert not answer["running"]
    (model,) = answer["models"]
    assert (model["serving"], model["previous"]) == (1, 2)
    assert [(v["version"], v["state"]) for v in model["versions"]] == [
        (3, "rolled_back"),
        (2, "available"),
        (1, "serving"),
    ]
    assert "5 rows failed one after another" in run("status", "--offline")


def test_a_version_whose_folder_is_gone_answers_no_more(folders: Path, tmp_path: Path) -> None:
    write_records(tmp_path / "data" / "models.json", {"utterance": Record(serving=5, previous=4)})
    (model,) = json.loads(run("status", "--offline", "--json"))["models"]
    assert (model["serving"], model["previous"]) == (3, None)
    assert model["versions"][0]["state"] == "serving"


def test_without_anything_the_version_policy_decides_and_broken_versions_are_named(folders: Path) -> None:
    (folders / "utterance" / "3" / "model.onnx").unlink()
    (model,) = json.loads(run("status", "--offline", "--json"))["models"]
    assert model["serving"] == 2
    assert model["versions"][0]["state"] == "refused"
    assert "no weights" in model["versions"][0]["reason"]


def test_a_running_server_is_shown_with_its_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = ModelStatus(
        model="utterance",
        serving=1,
        previous=None,
        probation_s=0.0,
        rollout="shadow",
        versions=[
            VersionStatus(
                version=2,
                state="shadow",
                ratio=0.2,
                is_proven=True,
                row_ms=3.21,
                rows=120,
                agreement={"intent": AgreementStatus(100, 0.97, 0.012)},
                shadow_skipped=4,
            ),
            VersionStatus(version=1, state="serving", is_proven=True, row_ms=3.2, rows=600),
        ],
    )
    asked: list[tuple[str, Any]] = []

    def ask(url: str, token: str | None, path: str, body: Any = None) -> list[ModelStatus]:
        asked.append((path, body))
        return [shown]

    monkeypatch.setattr(versions, "_ask", ask)
    output = run("status")
    for words in ("version 1 answers", "shadow", "20%", "proven", "3.21", "intent", "97.0%", "4 gave way to live rows"):
        assert words in output, output
    run("promote", "--version", "2", "--canary", "0.1")
    run("promote", "utterance", "--version", "2")
    run("rollback")
    run("rollback", "a/../b?")
    assert asked[1:] == [
        ("/v1/models/utterance/promote", {"version": 2, "stage": "canary", "ratio": 0.1}),
        ("/v1/models/utterance/promote", {"version": 2}),
        ("/v1/models/utterance/rollback", {}),
        ("/v1/models/a%2F..%2Fb%3F/rollback", {}),
    ]
    assert "exclude each other" in run("promote", "--version", "2", "--canary", "0.1", "--shadow", "0.1", exit_code=2)


def test_a_command_without_a_server_says_how_to_start_one() -> None:
    result = CliRunner().invoke(models, ["rollback", "--url", "http://127.0.0.1:9"])
    assert isinstance(result.exception, Unavailable)
    assert "start one with `cueline serve`" in str(result.exception)


@pytest.mark.parametrize("words", [["rollback", ""], ["promote", " ", "--version", "1"]])
def test_an_empty_name_of_a_model_is_refused_by_its_field(words: list[str]) -> None:
    assert "'[MODEL]': expected the name of a model, given none" in run(*words, exit_code=2)


def test_a_server_that_answers_too_late_is_not_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        output = run("promote", "--version", "1", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}", exit_code=1)
    assert "no answer within 0.05 s; `cueline models status` shows what becomes of it" in output


def test_what_is_no_address_is_named() -> None:
    assert "'--url': nonsense is no address" in run("rollback", "--url", "nonsense", exit_code=2)


@pytest.mark.parametrize("answer", [b'{"models": 3}', b"[]", b"hello", b"\xff"])
def test_another_server_is_not_ours(answer: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        result = CliRunner().invoke(models, ["rollback", "--url", f"http://127.0.0.1:{server.server_port}"])
        thread.join()
    assert isinstance(result.exception, Unavailable)
