"""DOCX → one article, from the two XML parts that hold the text. Source: ECMA-376 part 1, 17.3 and 17.4."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from xml.etree import ElementTree

from retrieval.article import Article, Section
from retrieval.errors import UnreadableFile
from retrieval.readers.text import row_line, tidy, title_of

MAX_XML_BYTES = 64 * 1024 * 1024
"""Unpacked; a small archive can hold gigabytes."""
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_LEVEL = re.compile(r"^(?:heading|berschrift|titre|titolo)\s*([1-9])$", re.IGNORECASE)


def read_docx(data: bytes, source: str) -> list[Article]:
    """Read a Word file: styled headings make sections, table rows stay whole.

    Raises:
        UnreadableFile: If it is no archive, has no document part, unpacks too large or holds broken XML.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            document = _part(archive, "word/document.xml", source)
            styles = _part(archive, "word/styles.xml", source) if "word/styles.xml" in archive.namelist() else None
    except KeyError as error:
        raise UnreadableFile("is no Word document", source=source) from error
    except UnreadableFile:
        raise
    except Exception as error:  # damage comes out of it in a dozen kinds: `zlib.error`, ValueError, …
        raise UnreadableFile(f"is a damaged Word document ({type(error).__name__})", source=source) from error
    levels = _style_levels(styles)
    sections: list[Section] = []
    path: list[tuple[int, str]] = []
    blocks: list[str] = []
    title = ""

    def close() -> None:
        if blocks:
            sections.append(Section(tuple(name for _, name in path), tuple(blocks)))
            blocks.clear()

    body = document.find(f"{_W}body")
    for element in _flat(body) if body is not None else ():
        if element.tag == f"{_W}tbl":
            blocks.extend(_rows(element))
            continue
        line = _text(element)
        if not line:
            continue
        style = element.find(f"{_W}pPr/{_W}pStyle")
        level = levels.get(style.get(f"{_W}val", ""), -1) if style is not None else -1
        if level < 0:
            blocks.append(line)
        elif not title and not sections and not blocks:
            title = line
        else:
            close()
            while path and path[-1][0] >= level:
                path.pop()
            path.append((level, line))
    close()
    if not title and sections and not sections[0].headings:
        first = list(sections[0].blocks)
        title = title_of(source, first)
        sections[0] = Section((), tuple(first))
    return [Article(source, title or title_of(source, []), tuple(sections))]


def _part(archive: zipfile.ZipFile, name: str, source: str) -> ElementTree.Element:
    if archive.getinfo(name).file_size > MAX_XML_BYTES:
        raise UnreadableFile(f"unpacks to more than {MAX_XML_BYTES // 2**20} MiB", source=source)
    content = archive.read(name)
    if b"<!DOCTYPE" in content[:4096] or b"<!ENTITY" in content:
        raise UnreadableFile("declares XML entities, which Word never does", source=source)
    return ElementTree.fromstring(content)


def _style_levels(styles: ElementTree.Element | None) -> dict[str, int]:
    """Return the heading level of each style id, 0 for the title; names are English in every edition of Word."""
    levels = {"Title": 0, **{f"Heading{level}": level for level in range(1, 10)}}
    for style in styles.iter(f"{_W}style") if styles is not None else ():
        name = style.find(f"{_W}name")
        value = name.get(f"{_W}val", "") if name is not None else ""
        if value.lower() == "title":
            levels[style.get(f"{_W}styleId", "")] = 0
        elif found := _LEVEL.match(value):
            levels[style.get(f"{_W}styleId", "")] = int(found[1])
    return levels


def _flat(parent: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """Give paragraphs and tables in order, those in content controls too; but no table of contents, which says every
    heading twice.
    """
    for element in parent:
        if element.tag == f"{_W}sdt":
            gallery = element.find(f"{_W}sdtPr/{_W}docPartObj/{_W}docPartGallery")
            content = element.find(f"{_W}sdtContent")
            if content is not None and (gallery is None or gallery.get(f"{_W}val") != "Table of Contents"):
                yield from _flat(content)
        else:
            yield element


def _rows(table: ElementTree.Element) -> Iterator[str]:
    """Give the rows as lines; where the first is marked as the header, it names the cells below."""
    rows = list(table.iterfind(f"{_W}tr"))
    cells = [[_text(cell) for cell in row.iterfind(f"{_W}tc")] for row in rows]
    is_header = len(rows) > 1 and rows[0].find(f"{_W}trPr/{_W}tblHeader") is not None
    header = cells.pop(0) if is_header else []
    yield from (line for row in cells if (line := row_line(row, header)))


def _text(element: ElementTree.Element) -> str:
    parts: list[str] = []
    for node in element.iter():
        if node.tag == f"{_W}t":
            parts.append(node.text or "")
        elif node.tag in (f"{_W}tab", f"{_W}br", f"{_W}p", f"{_W}cr"):
            parts.append(" ")
    return tidy("".join(parts))
