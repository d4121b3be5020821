"""Who may see an article is read however it is written, or the file is left out: nothing is shown to all by mistake."""

import json
from pathlib import Path

import pytest

from retrieval.access import RULES_FILE
from retrieval.article import Viewer
from retrieval.errors import UnreadableFile
from retrieval.ingest import read_folder
from retrieval.readers import read_file

SUPERVISOR = frozenset({"supervisor"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("capital.md", "---\nTitle: Margin\nRights: supervisor\n---\n31 percent.\n"),
        ("blank.md", "\n\n---\ntitle: Margin\nrights: [supervisor]\n---\n31 percent.\n"),
        ("hugo.md", '+++\ntitle = "Margin"\nrights = ["supervisor"]\n+++\n31 percent.\n'),
        ("meta.html", '<meta name="Rights" content="supervisor"><h1>Margin</h1><p>31 percent.'),
        ("list.json", json.dumps([{"Title": "Margin", "Text": "31 percent.", "Rights": ["supervisor"]}])),
        (
            "all.json",
            json.dumps({"Rights": ["supervisor"], "count": 1, "items": [{"title": "Margin", "text": "31 percent."}]}),
        ),
        ("keys.json", json.dumps({"rights": "supervisor", "Margin": "31 percent.", "Cost": "Nine."})),
        ("rows.csv", "Title,Text,RIGHTS\nMargin,31 percent.,supervisor\n"),
    ],
)
def test_rights_hold_however_they_are_written(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    articles = read_file(tmp_path / name, name)
    assert "Margin" in [article.title for article in articles]
    assert {article.audience.rights for article in articles} == {SUPERVISOR}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("---\ntitle: Margin\nrights: [supervisor]\n\n31 percent.\n", "no end"),
        ('+++\nrights = ["supervisor"]\n\n31 percent.\n', "no end"),
        ("\n---\ntitle: a\nrights: [a\nqueues: b\n---\n31 percent.\n", r"no YAML \(line \d\)"),
        ("+++\nrights = supervisor\n+++\n31 percent.\n", "no TOML"),
        ("---\nrights: {a: b}\n---\n31 percent.\n", "list of names"),
    ],
)
def test_rights_that_cannot_be_read_leave_the_file_out(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "margin.md").write_text(content)
    with pytest.raises(UnreadableFile, match=reason):
        read_file(tmp_path / "margin.md", "margin.md")


def test_a_rule_above_a_text_is_no_front_matter(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("---\n\n# Returns\n\nWithin 30 days.\n")
    assert read_file(tmp_path / "a.md", "a.md")[0].title == "Returns"


@pytest.mark.parametrize("pattern", ["internal", "internal/", "./internal/*", "/internal/deep/margin.md"])
def test_a_rule_for_a_folder_covers_what_lies_in_it(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "internal" / "deep").mkdir(parents=True)
    (tmp_path / "internal" / "deep" / "margin.md").write_text("# Margin\n\n31 percent.\n")
    (tmp_path / "returns.md").write_text("# Returns\n\nWithin 30 days.\n")
    (tmp_path / RULES_FILE).write_text(f'"{pattern}": {{rights: [supervisor]}}\n')
    articles, skipped, _ = read_folder(tmp_path, lambda *_: None)
    assert [article.source for article in articles if article.audience.admits(Viewer())] == ["returns.md"]
    assert not skipped


@pytest.mark.parametrize("name", [RULES_FILE, "access.yml", "Access.yaml"])
def test_rules_in_a_folder_hold_for_that_folder(name: str, tmp_path: Path) -> None:
    """An archive of a folder holds the folder."""
    for folder in ("articles/internal", "internal"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "margin.md").write_text("# Margin\n\n31 percent.\n")
    (tmp_path / "articles" / name).write_text('internal: {rights: [supervisor]}\n"*.md": {rights: [lead]}\n')
    articles, skipped, _ = read_folder(tmp_path, lambda *_: None)
    assert {article.source: article.audience.admits(Viewer()) for article in articles} == {
        "articles/internal/margin.md": False,
        "internal/margin.md": True,
    }
    assert skipped == ()


def test_a_rule_that_covers_nothing_is_reported(tmp_path: Path) -> None:
    (tmp_path / "margin.md").write_text("# Margin\n\n31 percent.\n")
    (tmp_path / RULES_FILE).write_text('"Margin.md": {rights: [supervisor]}\n')
    _, (told,), _ = read_folder(tmp_path, lambda *_: None)
    assert (told.source, told.reason) == (RULES_FILE, "`Margin.md` covers no file")


@pytest.mark.parametrize("rule", ["{right: [supervisor]}", "[supervisor]", "supervisor", "5", "{rights: {a: b}}"])
def test_a_rule_that_is_not_understood_ends_the_ingest(rule: str, tmp_path: Path) -> None:
    (tmp_path / "margin.md").write_text("# Margin\n\n31 percent.\n")
    (tmp_path / RULES_FILE).write_text(f"margin.md: {rule}\n")
    with pytest.raises(UnreadableFile) as raised:
        read_folder(tmp_path, lambda *_: None)
    assert raised.value.source == RULES_FILE
