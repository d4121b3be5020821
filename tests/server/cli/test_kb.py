"""The commands on the real model, as `docs/knowledge.md` shows them."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli import root
from server.wire.errors import BadRequest, NotFound

PROJECT = Path(__file__).resolve().parents[3]
DOC = (PROJECT / "docs" / "knowledge.md").read_text()
COMMANDS = re.findall(r"^\$ cueline (kb .*)$", DOC, re.MULTILINE)


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUELINE_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(PROJECT)


@pytest.mark.slow
def test_the_examples_of_the_page_run_and_print_what_it_shows() -> None:
    printed = []
    for command in COMMANDS:
        result = CliRunner().invoke(root, shlex.split(command), catch_exceptions=False)
        assert result.exit_code == 0, command
        printed.append(result.stdout)
    found = json.loads(printed[1])
    assert found.keys() == {"query", "abstained", "results"}
    assert found["results"][0].keys() == {"source", "title", "text", "score"}
    assert found["results"][0]["source"] == "reset_service_light.md"
    assert json.loads(printed[2])["results"][0]["source"] == "loaner_car.md"
    assert json.loads(printed[3]) == {"query": "who won the game last night", "abstained": True, "results": []}
    scores = json.loads(printed[4])
    assert scores["recall_at_3"] >= 0.9


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(NotFound, match="cueline kb ingest DIR --kb nothing"):
        CliRunner().invoke(root, ["kb", "search", "a", "--kb", "nothing"], catch_exceptions=False)
    with pytest.raises(BadRequest, match="context"):
        CliRunner().invoke(root, ["kb", "search", "a", "--context", "{"], catch_exceptions=False)
    with pytest.raises(BadRequest, match="kb"):
        CliRunner().invoke(root, ["kb", "rollback", "--kb", "../x"], catch_exceptions=False)
