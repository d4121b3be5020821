"""What the documentation tells people to type is what the commands, the configuration and the sockets take.

Policies and graphs on their pages are tried by `tests/server/policy/test_docs.py` and
`tests/inference/compile/test_docs.py`.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from server.cli import root
from server.config.settings import PROJECT_ROOT, Settings
from server.wire import feed, ingest
from server.wire.codec import audio_decoder, feed_decoder, transcript_decoder
from server.wire.publication import Publication

PAGES = [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(\$ )?([A-Z_]+=\S* )*cueline ")
OPTIONAL = re.compile(r"\[(--[^\]]*)\]")
NOT_THERE = re.compile(r"does not exist|is a directory")


def blocks(page: Path, language: str) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    yield from re.findall(rf"^```(?:{language})\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def typed() -> Iterator[tuple[str, list[str]]]:
    """Every line of a shell block that runs the command, as words."""
    for page in PAGES:
        for block in blocks(page, "sh|bash|"):
            for line in block.splitlines():
                if not COMMAND.match(line):
                    continue
                # Square brackets say what may be left out: tried with it.
                words = shlex.split(OPTIONAL.sub(r"\1", line.removeprefix("$ ")), comments=True)
                words = words[words.index("cueline") + 1 :]
                end = next((at for at, word in enumerate(words) if word in ("<", ">", "|")), len(words))
                yield f"{page.name}: {line.strip()[:80]}", [word.partition("|")[0] for word in words[:end]]


COMMANDS = list(typed())
TABLES = [(page.name, block) for page in PAGES for block in blocks(page, "toml")]


@pytest.mark.parametrize("words", [words for _, words in COMMANDS], ids=[name for name, _ in COMMANDS])
def test_a_command_is_one_that_there_is(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command: click.Command = root
    context = root.make_context("cueline", list(words[:1]))
    while isinstance(command, click.Group):
        name, command_found, _ = command.resolve_command(context, words)
        assert command_found is not None
        command, words = command_found, words[1:]
        context = click.Context(command, info_name=name)
    try:
        command.make_context("cueline", list(words))
    except click.exceptions.Exit:
        pass  # `--help`
    except click.BadParameter as error:
        if not NOT_THERE.search(error.message):
            raise


@pytest.mark.parametrize("table", [block for _, block in TABLES], ids=[name for name, _ in TABLES])
def test_a_configuration_has_only_settings_that_there_are(table: str) -> None:
    msgspec.convert(tomllib.loads(table.replace("…", "x" * 40)), Settings)  # a secret is not printed, but has a length


def test_messages_are_what_the_sockets_say() -> None:
    ingest_page, feed_page = (PROJECT_ROOT / "docs" / name for name in ("ingest.md", "feed.md"))
    start, utterance, *_ = (block.encode() for block in blocks(ingest_page, "json"))
    assert isinstance(audio_decoder.json(start), ingest.AudioStart)
    assert isinstance(transcript_decoder.json(utterance), ingest.UtteranceIn)
    answer, publication = (block.encode() for block in blocks(feed_page, "json"))
    assert msgspec.json.decode(answer, type=feed.Subscribed).off == 42
    assert msgspec.json.decode(publication, type=Publication).kind == "transcript"
    spoken = [
        text for page in (ingest_page, feed_page) for text in re.findall(r"`(\{\"type\"[^`]*\})`", page.read_text())
    ]
    assert len(spoken) > 8
    for text in spoken:
        _decodes(text.replace('"ch": …', '"ch": "call:x"').replace('"ep": …', '"ep": "x"').replace("…", "1"))


def _decodes(text: str) -> None:
    """A message of somebody: either side of either socket."""
    readers = [audio_decoder.json, transcript_decoder.json, feed_decoder.json]
    answers = ingest.Started | ingest.AudioAck | ingest.Stopped | ingest.ErrorMessage, ingest.UtteranceAck
    readers += [lambda frame, kind=kind: msgspec.json.decode(frame, type=kind) for kind in answers]
    problems = []
    for read in readers:
        try:
            read(text.encode())
        except Exception as error:
            problems.append(str(error))
        else:
            return
    raise AssertionError(f"{text}: {problems}")
