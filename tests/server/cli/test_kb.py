"""The commands on the real model, as `docs/knowledge.md` shows them."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from retrieval.manifest import Calibration, EncoderIdentity, Manifest
from retrieval.store import BaseStore
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


def test_a_list_cuts_no_name_short_however_narrow_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["orders_and_returns_of_the_european_shops", "warranty"]
    for name in names:
        manifest = Manifest(
            base=name,
            generation=1,
            created_at="2026-01-02T03:04:05+00:00",
            encoder=EncoderIdentity("utterance", 1, "0123456789abcdef", 384),
            index="flat",
            files=1,
            articles=1,
            passages=1,
            parts=1,
            calibration=Calibration(0.3, 0.1, 0.2),
            digest="",
            sizes_bytes={},
        )
        store = BaseStore(tmp_path, "car_service", name)
        with store.writing() as folder:
            manifest.write(folder)
            store.publish(folder, 1)
    monkeypatch.setenv("COLUMNS", "40")
    lines = CliRunner().invoke(root, ["kb", "list"], catch_exceptions=False).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["base", *names]
    assert [line.split()[-1] for line in lines[1:]] == ["2026-01-02T03:04:05+00:00"] * 2


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(NotFound, match="cueline kb ingest DIR --kb nothing"):
        CliRunner().invoke(root, ["kb", "search", "a", "--kb", "nothing"], catch_exceptions=False)
    with pytest.raises(BadRequest, match="context"):
        CliRunner().invoke(root, ["kb", "search", "a", "--context", "{"], catch_exceptions=False)
    with pytest.raises(BadRequest, match="kb"):
        CliRunner().invoke(root, ["kb", "rollback", "--kb", "../x"], catch_exceptions=False)


@pytest.mark.parametrize(("name", "told"), [("one.md", "'DIR': Directory .* is a file"), ("none", "does not exist")])
def test_what_is_no_folder_makes_no_base(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "one.md").write_text("# One\n\nOne article.\n")
    result = CliRunner().invoke(root, ["kb", "ingest", str(tmp_path / name)])
    assert result.exit_code == 2
    assert re.search(told, result.output)
    assert not (tmp_path / "kb").exists()


@pytest.mark.slow
def test_a_set_that_wants_what_the_base_does_not_have_gives_no_figures(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text('{"question": "what does a battery cost", "relevant": "batery.md"}\n')
    CliRunner().invoke(root, ["kb", "ingest", "graphs/knowledge/car_service"], catch_exceptions=False)
    with pytest.raises(BadRequest, match=r"^relevant: .* line 1 `batery\.md`$"):
        CliRunner().invoke(root, ["kb", "evaluate", str(tmp_path / "set.jsonl")], catch_exceptions=False)
