"""The commands on the real model, as `docs/knowledge.md` shows them."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from retrieval.manifest import Calibration, EncoderIdentity, Manifest
from retrieval.store import BaseStore, bases
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


def make_base(data: Path, name: str) -> None:
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
    store = BaseStore(data, "car_service", name)
    with store.writing() as folder:
        manifest.write(folder)
        store.publish(folder, 1)


def test_a_list_cuts_no_name_short_however_narrow_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["orders_and_returns_of_the_european_shops", "warranty"]
    for name in names:
        make_base(tmp_path, name)
    monkeypatch.setenv("COLUMNS", "40")
    lines = CliRunner().invoke(root, ["kb", "list"], catch_exceptions=False).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["base", *names]
    assert [line.split()[-1] for line in lines[1:]] == ["2026-01-02T03:04:05+00:00"] * 2


def test_who_has_no_base_is_told_how_to_make_one() -> None:
    result = CliRunner().invoke(root, ["kb", "list", "--tenant", "velo"], catch_exceptions=False)
    assert (result.stdout, result.exit_code) == ("", 0)
    assert "cueline kb ingest DIR --kb NAME --tenant velo" in result.stderr


def test_a_base_is_deleted_when_that_was_meant(tmp_path: Path) -> None:
    make_base(tmp_path, "warranty")
    asked = CliRunner().invoke(root, ["kb", "delete", "--kb", "warranty"], input="n\n")
    assert asked.exit_code == 1
    assert bases(tmp_path, "car_service") == ["warranty"]
    with pytest.raises(NotFound, match="no knowledge base waranty"):
        CliRunner().invoke(root, ["kb", "delete", "--kb", "waranty", "--yes"], catch_exceptions=False)
    deleted = CliRunner().invoke(root, ["kb", "delete", "--kb", "warranty", "--yes"], catch_exceptions=False)
    assert deleted.stdout == "warranty: deleted\n"
    assert bases(tmp_path, "car_service") == []


@pytest.mark.slow
def test_lines_for_another_program_are_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    folder = tmp_path / "articles"
    folder.mkdir()
    (folder / "noise_of_a_rather_long_file_name_in_a_folder.txt").write_bytes(bytes(range(256)) * 8)
    (folder / "a.md").write_text("# Returns\n\nA jacket is returned within thirty days of its delivery.\n")
    result = CliRunner().invoke(root, ["kb", "ingest", str(folder)], catch_exceptions=False)
    made, skipped = result.stdout.splitlines()
    assert made.startswith("car_service: generation 1, 1 articles")
    assert made.endswith("flat index")
    assert skipped.startswith("  skipped noise_of")
    assert skipped.endswith("Windows-1252)")
    assert "read 2/2\n" in result.stderr
    assert "index 1/1\n" in result.stderr


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
