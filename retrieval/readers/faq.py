"""JSON and CSV → one article an entry, `file#key` each; a JSON file that is one article keeps the file's own name.

What an entry is, JSON: an object with a title or question and a text; failing that, a nested object is walked: names
of its keys become headings, its texts become blocks. CSV: a row, with its columns named by the header.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from retrieval.article import Article, Audience, Section, labels
from retrieval.errors import UnreadableFile
from retrieval.readers.text import decode, name_of, tidy

TITLE_KEYS = ("title", "question", "name", "heading", "subject", "topic", "label")
TEXT_KEYS = ("text", "body", "content", "answer", "description", "passage", "article", "instructions", "sections")
KEY_KEYS = ("id", "key", "slug", "uuid")
_AUDIENCE_KEYS = ("rights", "queues")
_MAX_ENTRIES = 100_000
_MAX_DIALECT_SAMPLE = 8192
_SLUG = re.compile(r"[^\w-]+")


def read_json(data: bytes, source: str) -> list[Article]:
    """Read a JSON file of one article, a list of articles, or an object of articles by key.

    Raises:
        UnreadableFile: If it is no JSON, holds too many entries, or names rights that cannot be read.
    """
    try:
        value = msgspec.json.decode(decode(data, source))
    except (msgspec.DecodeError, UnicodeError) as error:
        raise UnreadableFile("is no valid JSON", source=source) from error
    if isinstance(value, dict):
        if _is_article(value):
            return [_article(value, source, name_of(source))]
        if len(value) == 1:  # {"articles": […]}
            only = next(iter(value.values()))
            if isinstance(only, list | dict):
                value = only
    if isinstance(value, list):
        return list(_from_list(value, source))
    if isinstance(value, dict):
        if value and all(isinstance(entry, dict | list | str) for entry in value.values()):
            _check_count(len(value), source)
            return [
                _article(entry if isinstance(entry, dict) else {"text": entry}, f"{source}#{key}", tidy(str(key)))
                for key, entry in value.items()
            ]
        return [_article(value, source, name_of(source))]
    raise UnreadableFile("holds neither an object nor a list", source=source)


def read_csv(data: bytes, source: str) -> list[Article]:
    """Read a CSV file with a header: any of comma, semicolon, tab.

    Raises:
        UnreadableFile: If it has no header, or holds too many rows.
    """
    text = decode(data, source)
    try:
        dialect: type[csv.Dialect] | csv.Dialect = csv.Sniffer().sniff(text[:_MAX_DIALECT_SAMPLE], delimiters=",;\t")
    except csv.Error:
        dialect = csv.excel
    try:
        rows = [dict(row) for row in csv.DictReader(io.StringIO(text), dialect=dialect)]
    except csv.Error as error:
        raise UnreadableFile("is no valid CSV", source=source) from error
    named = [{tidy(str(key)).lower(): value for key, value in row.items() if key and value} for row in rows]
    return list(_from_list([row for row in named if row], source))


def _from_list(entries: list[Any], source: str) -> Iterator[Article]:
    _check_count(len(entries), source)
    taken: set[str] = set()
    for number, entry in enumerate(entries, 1):
        record = entry if isinstance(entry, dict) else {"text": entry}
        key = str(next((record[name] for name in KEY_KEYS if isinstance(record.get(name), str | int)), ""))
        # A title names an entry better than its place, which changes when a row is put before it.
        key = key or _SLUG.sub("-", _title(record).lower()).strip("-")[:80] or str(number)
        if key in taken:
            key = f"{key}-{number}"
        taken.add(key)
        yield _article(record, f"{source}#{key}", "")


def _check_count(count: int, source: str) -> None:
    if count > _MAX_ENTRIES:
        raise UnreadableFile(f"holds more than {_MAX_ENTRIES} entries", source=source)


def _is_article(record: Mapping[str, Any]) -> bool:
    lowered = {str(key).lower() for key in record}
    return bool(lowered & set(TEXT_KEYS)) or bool(_title(record))


def _title(record: Mapping[str, Any]) -> str:
    lowered = {str(key).lower(): value for key, value in record.items()}
    return next((tidy(lowered[key]) for key in TITLE_KEYS if isinstance(lowered.get(key), str)), "")


def _article(record: Mapping[str, Any], source: str, name: str) -> Article:
    title = _title(record)
    sections: dict[tuple[str, ...], list[str]] = {}
    skipped = {*KEY_KEYS, *_AUDIENCE_KEYS}
    for key, value in record.items():
        lowered = str(key).lower()
        if lowered in skipped or (isinstance(value, str) and tidy(value) == title):
            continue
        for path, line in _walk(value, () if lowered in TEXT_KEYS else (tidy(str(key).replace("_", " ")),)):
            sections.setdefault(path, []).append(line)
    if not title:
        title = name or next((line for lines in sections.values() for line in lines), "")[:80]
    elif name and name.lower() not in title.lower() and "#" in source:
        title = f"{name}: {title}"
    try:
        audience = Audience(labels(record.get("rights")), labels(record.get("queues")))
    except ValueError as error:
        raise UnreadableFile(f"rights and queues: {error}", source=source) from error
    if not sections:
        sections[()] = [title]
    return Article(source, title, tuple(Section(path, tuple(lines)) for path, lines in sections.items()), audience)


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give the texts below a value with the names of the keys above them.

    A list of records is prose in pieces: its keys (`type`, `button`, …) repeat with each piece and say nothing, and so
    do one-word values beside longer ones.
    """
    if isinstance(value, str):
        for part in value.split("\n"):
            if line := tidy(part):
                yield path, line
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int | float):
        yield path, f"{path[-1]}: {value}" if path else str(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, (*path, tidy(str(key).replace("_", " "))))
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict):
                texts = [line for _, line in _walk(inner, ())]
                yield from ((path, line) for line in texts if " " in line or len(texts) == 1)
            else:
                yield from _walk(inner, path)
