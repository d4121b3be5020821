"""Bytes → text, and text → tidy lines. What every reader shares."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from retrieval.errors import UnreadableFile

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAX_CONTROL_SHARE = 0.01
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
_BLANKS = re.compile(r"\s+")
_MAX_TITLE_WORDS = 14


def decode(data: bytes, source: str, declared: str = "") -> str:
    """Return the text of a file: by its byte order mark, its own declaration, UTF-8, or Windows-1252.

    Windows-1252 is what European office files without a mark are; a file of control characters is no text in any
    encoding and is refused.

    Raises:
        UnreadableFile: If it is no text.
    """
    candidates = [name for mark, name in _MARKS if data.startswith(mark)][:1] or _without_mark(data, declared)
    for name in candidates:
        try:
            text = data.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
        if len(_CONTROL.findall(text)) <= _MAX_CONTROL_SHARE * len(text):
            return text.replace("\r\n", "\n").replace("\r", "\n")
    raise UnreadableFile("is no text in an encoding we know (UTF-8, UTF-16, UTF-32, Windows-1252)", source=source)


def tidy(text: str) -> str:
    """Return the text on one line, without control characters and with single blanks."""
    return _BLANKS.sub(" ", _CONTROL.sub(" ", text)).strip()


def title_of(source: str, blocks: list[str]) -> str:
    """Return the title of an article without a heading, and take it off its blocks.

    A short first line that is no sentence is a title; otherwise the file's name is.
    """
    first = blocks[0] if blocks else ""
    if len(blocks) > 1 and len(first.split()) <= _MAX_TITLE_WORDS and not first.endswith((".", "!", ",", ";", ":")):
        return blocks.pop(0)
    return name_of(source)


def row_line(cells: Sequence[str], header: Sequence[str]) -> str:
    """Return a table's row on one line, each cell with the name of its column: "yes, no, yes" alone says nothing, and a
    long table's header is in another passage.

    Args:
        cells: Of the row, blank ones included.
        header: Names of the columns; empty: none known. Where the row has more or fewer cells, no cell is named.
    """
    names = header if len(header) == len(cells) else [""] * len(cells)
    named = zip(map(tidy, names), map(tidy, cells), strict=True)
    return ", ".join(f"{name}: {cell}" if name else cell for name, cell in named if cell)


def name_of(source: str) -> str:
    """Return a file's name as words: `guides/reset_light.md` is "Reset light"."""
    stem = PurePosixPath(source).stem
    words = _BLANKS.sub(" ", re.sub(r"[_\-.]+", " ", stem)).strip() or stem
    return words[:1].upper() + words[1:]


def _without_mark(data: bytes, declared: str) -> list[str]:
    zeros_even, zeros_odd = data[0:2000:2].count(0), data[1:2000:2].count(0)
    half = max(min(len(data), 2000) // 2, 1)
    if zeros_odd > 0.4 * half and zeros_even < 0.1 * half:
        return ["utf-16-le"]
    if zeros_even > 0.4 * half and zeros_odd < 0.1 * half:
        return ["utf-16-be"]
    return [*([declared] if declared else []), "utf-8", "cp1252"]
