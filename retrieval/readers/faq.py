"""JSON and CSV → one article an entry, `file#key` each; a JSON file that is one article keeps the file's own name.

What an entry is, JSON: an object with a title or question and a text; failing that, a nested object is walked: names
of its keys become headings, its texts become blocks. CSV: a row, with its columns named by the header. An entry of a
title alone has no section: it would answer with its question.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from retrieval.article import Article, Audience, Section
from retrieval.errors import UnreadableFile
from retrieval.readers.html import is_markup, read_fragment
from retrieval.readers.text import decode, name_of, tidy

TITLE_KEYS = ("title", "question", "name", "heading", "subject", "topic", "label")
TEXT_KEYS = ("text", "body", "content", "answer", "description", "passage", "article", "instructions", "sections")
KEY_KEYS = ("id", "key", "slug", "uuid")
_AUDIENCE_KEYS = ("rights", "queues")
_ABOUT_ENTRY = ("_id", "_ids", "_at", "_url", "url", "uri")
"""Endings of names whose values no agent looks for: exports have a dozen beside the text."""
_MAX_ENTRIES = 100_000
_MAX_TITLE_CHARS = 80
_DELIMITERS = ",;\t"
_EXCEL_MARK = re.compile(r"\Asep=([,;\t])\n", re.IGNORECASE)
_MAX_NAME_WORDS = 8
"""Words that the name of a column has at most."""
_SLUG = re.compile(r"[^\w-]+")
_BYTE = re.compile(r"\(byte (\d+)\)")


def read_json(data: bytes, source: str) -> list[Article]:
    """Read a JSON file of one article, a list of articles, or an object of articles by key.

    A list of objects may stand in an envelope (`{"count": 2, "articles": […]}`), whose rights hold for all of them.

    Raises:
        UnreadableFile: If it is no JSON, holds too many entries, or names rights that cannot be read.
    """
    encoded = decode(data, source).encode()
    try:
        value = msgspec.json.decode(encoded)
    except (msgspec.DecodeError, UnicodeError) as error:
        byte = _BYTE.search(str(error))
        line = encoded.count(b"\n", 0, int(byte[1]) if byte else None) + 1
        raise UnreadableFile(f"is no valid JSON (line {line})", source=source) from error
    audience = Audience()
    if isinstance(value, dict):
        if _is_article(value):
            return [_article(value, source, name_of(source))]
        audience = _audience(value, source)
        value = _unwrapped(value)
    if isinstance(value, list):
        articles = list(_from_list(value, source))
    elif not isinstance(value, dict):
        raise UnreadableFile("holds neither an object nor a list", source=source)
    elif value and all(isinstance(entry, dict | list | str) for entry in value.values()):
        _check_count(len(value), source)
        articles = [
            _article(entry if isinstance(entry, dict) else {"text": entry}, f"{source}#{key}", tidy(str(key)))
            for key, entry in value.items()
            if str(key).lower() not in _AUDIENCE_KEYS
        ]
    else:
        articles = [_article(value, source, name_of(source))]
    return [replace(article, audience=article.audience.narrowed(audience)) for article in articles]


def read_csv(data: bytes, source: str) -> list[Article]:
    """Read a CSV file with a header: any of comma, semicolon, tab.

    Raises:
        UnreadableFile: If it has no header, a row has more fields than that, or it holds too many rows.
    """
    text = decode(data, source)
    marked = _EXCEL_MARK.match(text)
    text = text[marked.end() :] if marked else text
    first = text.lstrip().split("\n", 1)[0]
    # The header decides: its names hold no delimiter, while a text may hold more of the others than of its own.
    delimiter = (
        marked[1] if marked else max(_DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
    )
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    header: list[str] = []
    records = []
    try:
        for cells in reader:
            if not any(map(tidy, cells)):
                continue
            if not header:
                header = [tidy(name).lower() for name in cells]
                if any(name.endswith(("?", ".", "!")) or len(name.split()) > _MAX_NAME_WORDS for name in header):
                    raise UnreadableFile("its first line names no columns, such as question and answer", source=source)
                continue
            if any(map(tidy, cells[len(header) :])):
                raise UnreadableFile(
                    f"line {reader.line_num + bool(marked)} has more fields than the header has columns; "
                    "a text with a delimiter needs quotes",
                    source=source,
                )
            records.append({name: cell for name, cell in zip(header, cells, strict=False) if name and tidy(cell)})
    except csv.Error as error:
        raise UnreadableFile(f"is no valid CSV (line {reader.line_num + bool(marked)})", source=source) from error
    return list(_from_list([record for record in records if record], source))


def _unwrapped(value: dict[str, Any]) -> Any:
    """Return the entries of an envelope, or the value where it is none."""
    fields = {key: inner for key, inner in value.items() if str(key).lower() not in _AUDIENCE_KEYS}
    if len(fields) == 1:
        only = next(iter(fields.values()))
        return only if isinstance(only, list | dict) else value
    lists = [inner for inner in fields.values() if isinstance(inner, list | dict)]
    if len(lists) == 1 and isinstance(lists[0], list) and all(isinstance(entry, dict) for entry in lists[0]):
        return lists[0]
    return value


def _from_list(entries: list[Any], source: str) -> Iterator[Article]:
    _check_count(len(entries), source)
    taken: set[str] = set()
    for number, entry in enumerate(entries, 1):
        record = entry if isinstance(entry, dict) else {"text": entry}
        lowered = _lowered(record)
        key = str(next((lowered[name] for name in KEY_KEYS if isinstance(lowered.get(name), str | int)), ""))
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
    return bool(_lowered(record).keys() & set(TEXT_KEYS)) or bool(_title(record))


def _lowered(record: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).lower(): value for key, value in record.items()}


def _audience(record: Mapping[str, Any], source: str) -> Audience:
    try:
        return Audience.of(record)
    except ValueError as error:
        raise UnreadableFile(f"rights and queues: {error}", source=source) from error


def _title(record: Mapping[str, Any]) -> str:
    lowered = _lowered(record)
    return next((tidy(lowered[key]) for key in TITLE_KEYS if isinstance(lowered.get(key), str)), "")


def _article(record: Mapping[str, Any], source: str, name: str) -> Article:
    title = _title(record)
    sections: dict[tuple[str, ...], list[str]] = {}
    skipped = {*KEY_KEYS, *_AUDIENCE_KEYS}
    for key, value in record.items():
        lowered = str(key).lower()
        if lowered in skipped or lowered.endswith(_ABOUT_ENTRY) or (isinstance(value, str) and tidy(value) == title):
            continue
        for path, line in _walk(value, () if lowered in TEXT_KEYS else (tidy(str(key).replace("_", " ")),)):
            sections.setdefault(path, []).append(line)
    if not title:
        path, first = next(((path, lines[0]) for path, lines in sections.items()), ((), ""))
        title = name or first[:_MAX_TITLE_CHARS]
        if title == first and len(sections) > 1 and len(sections[path]) == 1:
            del sections[path]  # what names the entry need not be its first passage as well
    elif name and name.lower() not in title.lower() and "#" in source:
        title = f"{name}: {title}"
    parts = tuple(Section(path, tuple(lines)) for path, lines in sections.items())
    return Article(source, title, parts, _audience(record, source))


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give the texts below a value with the names of the keys above them.

    A list of records is prose in pieces: its keys (`type`, `button`, …) repeat with each piece and say nothing, and so
    do one-word values beside longer ones.
    """
    if isinstance(value, str) and is_markup(value):
        for section in read_fragment(value):
            yield from (((*path, *section.headings), block) for block in section.blocks)
    elif isinstance(value, str):
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
