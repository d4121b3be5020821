"""Knowledge bases of many trades, written for this project: articles, and what callers ask that each of them answers.

    service_bases/<trade>.yaml
    articles: [{id, title, text, direct: [question, …], talks: [{before: ["c: …", "a: …"], ask: question}, …]}, …]

A direct question says alone what is meant; the question of a talk says it only together with the turns before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from inference.training.readers import DataError

FOLDER = Path(__file__).with_name("service_bases")
OFF_TOPIC = Path(__file__).with_name("off_topic.yaml")
_SPEAKERS = {"c": "customer", "a": "agent"}

Turns = tuple[tuple[str, str], ...]
"""Speaker (`customer` or `agent`) and text, oldest first."""


@dataclass(frozen=True, slots=True)
class ServiceArticle:
    """An article and its questions.

    Attributes:
        id: Unique in its base.
        title: As an agent reads it.
        text: Sentences.
        questions: What it answers, and the turns before; none for a direct question.
    """

    id: str
    title: str
    text: str
    questions: tuple[tuple[str, Turns], ...]


@dataclass(frozen=True, slots=True)
class ServiceBase:
    """The knowledge base of one trade.

    Attributes:
        trade: Name of its file.
        articles: Many of them near neighbours that differ in substance.
    """

    trade: str
    articles: tuple[ServiceArticle, ...]


def read_service_bases(folder: Path = FOLDER) -> tuple[ServiceBase, ...]:
    """Read every base, by name.

    Raises:
        DataError: Naming the file, if one is not as above, or there is none.
    """
    bases = tuple(_read(path) for path in sorted(folder.glob("*.yaml")))
    if not bases:
        raise DataError(f"{folder}: holds no base")
    return bases


def read_off_topic(path: Path = OFF_TOPIC) -> tuple[str, ...]:
    """Read questions that no base answers.

    Raises:
        DataError: If the file is no list of texts.
    """
    try:
        return msgspec.convert(yaml.safe_load(path.read_text("utf-8")), tuple[str, ...])
    except (OSError, UnicodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise DataError(f"{path}: {error}") from error


def read_turns(lines: Sequence[str]) -> Turns:
    """Read turns as the files have them, such as `c: my bill is wrong`.

    Raises:
        KeyError: If somebody else speaks.
        ValueError: If a line has no speaker.
    """
    split = [line.split(":", 1) for line in lines]
    return tuple((_SPEAKERS[speaker.strip()], text.strip()) for speaker, text in split)


def _read(path: Path) -> ServiceBase:
    try:
        table = yaml.safe_load(path.read_text("utf-8"))
        articles = tuple(_article(row) for row in table["articles"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {error!r}") from error
    if len({article.id for article in articles}) < len(articles):
        raise DataError(f"{path}: two articles of one id")
    return ServiceBase(path.stem, articles)


def _article(row: dict[str, object]) -> ServiceArticle:
    direct, talks = row["direct"], row["talks"]
    if not isinstance(direct, list) or not isinstance(talks, list):
        raise ValueError("`direct` and `talks` are lists")
    questions: list[tuple[str, Turns]] = [(str(question), ()) for question in direct]
    questions += [(str(talk["ask"]), read_turns(talk["before"])) for talk in talks]
    return ServiceArticle(str(row["id"]), str(row["title"]), str(row["text"]).strip(), tuple(questions))
