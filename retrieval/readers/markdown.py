"""Markdown and plain text → one article. Headings make sections, list items and table rows stay whole.

Front matter (`---`) may hold `title`, `rights` and `queues`; a file whose front matter is wrong is refused, because an
article whose rights cannot be read must not be shown to everybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from retrieval.article import Article, Audience, Section, labels
from retrieval.errors import UnreadableFile
from retrieval.readers.text import decode, tidy, title_of

_FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*?)[ \t#]*$")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+")
_RULE = re.compile(r"^\s*(?:[-*_]\s*){3,}$|^\s*\|?[\s:|-]*-[\s:|-]*\|[\s:|-]*$")
_UNDERLINE = re.compile(r"^ {0,3}(=+|-+)\s*$")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*(?:\s+\"[^\"]*\")?\)")
_EMPHASIS = re.compile(r"(\*\*|__|`|~~)(.+?)\1")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def read_markdown(data: bytes, source: str) -> list[Article]:
    """Read a Markdown or text file.

    Raises:
        UnreadableFile: If it is no text, or its front matter is no mapping or has wrong labels.
    """
    text = decode(data, source)
    meta, text = _front_matter(text, source)
    sections, title = _sections(_COMMENT.sub("", text))
    title = title or str(meta.get("title") or "")
    if not title:
        blocks = list(sections[0].blocks) if sections and not sections[0].headings else []
        title = title_of(source, blocks)
        if blocks:
            sections[0] = Section((), tuple(blocks))
    try:
        audience = Audience(labels(meta.get("rights")), labels(meta.get("queues")))
    except ValueError as error:
        raise UnreadableFile(f"front matter: rights and queues: {error}", source=source) from error
    return [Article(source, title, tuple(sections), audience)]


def _front_matter(text: str, source: str) -> tuple[dict[str, object], str]:
    found = _FRONT.match(text)
    if not found:
        return {}, text
    try:
        meta = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise UnreadableFile("front matter is no YAML", source=source) from error
    if meta is None:
        return {}, text[found.end() :]
    if not isinstance(meta, dict):
        raise UnreadableFile("front matter is no mapping", source=source)
    return meta, text[found.end() :]


def _sections(text: str) -> tuple[list[Section], str]:
    """Return the sections, and the title if the first heading stands before all text."""
    title = ""
    path: list[tuple[int, str]] = []
    sections: list[Section] = []
    blocks: list[str] = []

    def close() -> None:
        if blocks:
            sections.append(Section(tuple(name for _, name in path), tuple(blocks)))
            blocks.clear()

    for level, line in _blocks(text):
        if not level:
            blocks.append(line)
            continue
        close()
        if not title and not sections and not path:
            title = line
            continue
        while path and path[-1][0] >= level:
            path.pop()
        path.append((level, line))
    close()
    return sections, title


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Give blocks in order as (heading level or 0, text on one line)."""
    paragraph: list[str] = []
    is_code = False

    def flush() -> Iterator[tuple[int, str]]:
        if line := tidy(_plain(" ".join(paragraph))):
            yield 0, line
        paragraph.clear()

    for line in text.split("\n"):
        if _FENCE.match(line):
            is_code = not is_code
            yield from flush()
        elif is_code:
            paragraph.append(line)
        elif heading := _HEADING.match(line):
            yield from flush()
            if name := tidy(_plain(heading[2])):
                yield len(heading[1]), name
        elif paragraph and len(paragraph) == 1 and (mark := _UNDERLINE.match(line)):
            name = tidy(_plain(paragraph.pop()))
            yield (1 if mark[1][0] == "=" else 2), name
        elif not line.strip() or _RULE.match(line):
            yield from flush()
        elif item := _ITEM.match(line):
            yield from flush()
            paragraph.append(line[item.end() :])
        elif line.lstrip().startswith("|"):
            yield from flush()
            paragraph.append(", ".join(cell.strip() for cell in line.strip().strip("|").split("|") if cell.strip()))
        else:
            paragraph.append(line.strip().lstrip(">"))
    yield from flush()


def _plain(text: str) -> str:
    return _EMPHASIS.sub(r"\2", _EMPHASIS.sub(r"\2", _LINK.sub(r"\1", text)))
