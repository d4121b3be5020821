"""Markdown and plain text → one article. Headings make sections, list items and table rows stay whole.

Front matter (YAML between `---`, TOML between `+++`) may hold `title`, `rights` and `queues`; a file whose front matter
is wrong is refused, because an article whose rights cannot be read must not be shown to everybody.
"""

from __future__ import annotations

import html
import re
import tomllib
from collections.abc import Iterator, Sequence

import yaml

from retrieval.article import Article, Audience, Section
from retrieval.errors import UnreadableFile
from retrieval.readers.text import decode, row_line, tidy, title_of

_FRONT = re.compile(
    r"\A\s*(?:---[ \t]*\n(?P<yaml>.*?)^(?:---|\.\.\.)|\+\+\+[ \t]*\n(?P<toml>.*?)^\+\+\+)[ \t]*(?:\n|\Z)",
    re.DOTALL | re.MULTILINE,
)
_UNCLOSED = re.compile(r"\A\s*(?:---|\+\+\+)[ \t]*\n\s*[\w-]+[ \t]*[:=]")
"""A rule above a text is none; one above a field is a front matter without its end."""
# Every pattern takes a time that grows with the text alone: one file of a million brackets must not hold an ingest.
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*)$")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+")
_UNDERLINE = re.compile(r"^ {0,3}(=+|-+)\s*$")
_CELL_END = re.compile(r"(?<!\\)\|")
_LINK = re.compile(r"!?\[([^\[\]]*)\](?:\([^)\s]{0,500}(?:\s+\"[^\"]{0,200}\")?\)|\[[^\[\]]*\])")
_DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s+\S*[/#]\S*(?:\s+[\"'(].*)?\s*$")
_TASK = re.compile(r"^\[[ xX]\]\s+")
_EMPHASIS = re.compile(r"(\*\*|__|`|~~)(.+?)\1")
_SINGLE = re.compile(r"(?<![\w*\\])([*_])(?=[^\s*_])(.{1,200}?)(?<=[^\s*_\\])\1(?![\w*])")
"""Emphasis by one mark; `2 * 3 * 4` and `snake_case` have none."""
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|\w{2,32});")
_TAG = re.compile(
    r"</?(?:(?P<apart>br|center|details|div|hr|img|li|ol|p|summary|table|tbody|td|th|thead|tr|ul)"
    r"|a|abbr|b|big|code|em|font|i|kbd|mark|s|small|span|strong|sub|sup|u)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
"""What Markdown borrows from HTML; `<order number>` is a text."""
_ESCAPE = re.compile(r"\\([*_#\[\]()<>`~|.!+-])")
_NEWLINE = "\n"
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)


def read_markdown(data: bytes, source: str) -> list[Article]:
    """Read a Markdown or text file.

    Raises:
        UnreadableFile: If it is no text, or its front matter is no mapping or has wrong labels.
    """
    text = decode(data, source)
    meta, text = _front_matter(text, source)
    named = tidy(str(meta.get("title") or ""))
    sections, title = _sections(_COMMENT.sub("", text), 1 if named else 6)
    title = title or named
    if not title:
        blocks = list(sections[0].blocks) if sections and not sections[0].headings else []
        title = title_of(source, blocks)
        if blocks:
            sections[0] = Section((), tuple(blocks))
    try:
        audience = Audience.of(meta)
    except ValueError as error:
        raise UnreadableFile(f"front matter: rights and queues: {error}", source=source) from error
    return [Article(source, title, tuple(sections), audience)]


def _front_matter(text: str, source: str) -> tuple[dict[str, object], str]:
    """Return its fields, names in small letters, and the text below."""
    found = _FRONT.match(text)
    if not found:
        if _UNCLOSED.match(text):
            raise UnreadableFile("front matter has no end: a line `---`", source=source)
        return {}, text
    try:
        meta = yaml.safe_load(found["yaml"]) if found["toml"] is None else tomllib.loads(found["toml"])
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" (line {text.count(_NEWLINE, 0, found.start('yaml')) + mark.line + 1})"
        raise UnreadableFile(f"front matter is no YAML{line}", source=source) from error
    except tomllib.TOMLDecodeError as error:
        raise UnreadableFile("front matter is no TOML", source=source) from error
    if meta is not None and not isinstance(meta, dict):
        raise UnreadableFile("front matter is no mapping", source=source)
    return {str(name).lower(): value for name, value in (meta or {}).items()}, text[found.end() :]


def _sections(text: str, title_level: int) -> tuple[list[Section], str]:
    """Return the sections, and the title if the first heading stands before all text.

    Args:
        text: Below the front matter.
        title_level: Deepest level that such a heading may have: in an article that is named already, a smaller one
            begins its first part.
    """
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
        if not title and not sections and not path and level <= title_level:
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
    rows: list[Sequence[str]] = []
    has_header = False
    is_code = False

    def flush() -> Iterator[tuple[int, str]]:
        nonlocal has_header
        header = rows.pop(0) if has_header and len(rows) > 1 else ()
        yield from ((0, line) for cells in rows if (line := row_line(cells, header)))
        rows.clear()
        has_header = False
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
            if name := tidy(_plain(heading[2].rstrip(" \t#"))):
                yield len(heading[1]), name
        elif paragraph and len(paragraph) == 1 and (mark := _UNDERLINE.match(line)):
            name = tidy(_plain(paragraph.pop()))
            yield (1 if mark[1][0] == "=" else 2), name
        elif len(rows) == 1 and _is_delimiter(line):
            has_header = True
        elif not line.strip() or _is_rule(line) or _is_delimiter(line) or _DEFINITION.match(line):
            yield from flush()
        elif item := _ITEM.match(line):
            yield from flush()
            paragraph.append(_TASK.sub("", line[item.end() :]))
        elif line.lstrip().startswith("|"):
            if paragraph:
                yield from flush()
            rows.append([_plain(cell) for cell in _CELL_END.split(line.strip().removeprefix("|").removesuffix("|"))])
        else:
            if rows:
                yield from flush()
            paragraph.append(line.strip().lstrip("> "))
    yield from flush()


def _is_rule(line: str) -> bool:
    """Whether a line parts what is above it from what is below."""
    marks = "".join(line.split())
    return len(marks) >= 3 and not marks.strip("-*_")


def _is_delimiter(line: str) -> bool:
    """Whether a line stands between a table's header and its rows."""
    return "|" in line and "-" in line and not line.strip("|:- \t")


def _plain(text: str) -> str:
    text = _LINK.sub(r"\1", _LINK.sub(r"\1", _TAG.sub(lambda tag: " " if tag["apart"] else "", text)))
    text = _SINGLE.sub(r"\2", _EMPHASIS.sub(r"\2", _EMPHASIS.sub(r"\2", text)))
    return _ENTITY.sub(lambda found: html.unescape(found[0]), _ESCAPE.sub(r"\1", text))
