"""PDF → one article, a section a page. Text only: a scan without a text layer is reported, not guessed at."""

from __future__ import annotations

import io
import logging
import re
from collections import Counter

from retrieval.article import Article, Section
from retrieval.errors import UnreadableFile
from retrieval.readers.text import tidy, title_of

MAX_PAGES = 5000
_HYPHEN = re.compile(r"(\w)-\n(\w)")
_PAGE_NUMBER = re.compile(r"^\W*page\s*\d{1,4}(?:\s*(?:of|/)\s*\d{1,4})?\W*$", re.IGNORECASE)
_BARE_NUMBER = re.compile(r"^\W*(\d{1,4})(?:\s*(?:of|/)\s*\d{1,4})?\W*$")
_WRITER = re.compile(
    r"^microsoft (?:word|powerpoint|excel)\s*-\s*|\.(?:docx?|pptx?|xlsx?|odt|rtf|pdf|indd|tex|dvi)$", re.IGNORECASE
)
"""What programs add to a title that is a file's name."""
_NO_TITLE = frozenset({"untitled", "document", "document1", "powerpoint presentation", "print", "title"})

logging.getLogger("pypdf").setLevel(logging.ERROR)  # a warning a malformed object, of files we report on ourselves


def read_pdf(data: bytes, source: str) -> list[Article]:
    """Read a PDF file. Lines that most pages begin or end with (running heads, page numbers) are left out.

    Raises:
        UnreadableFile: If it is damaged, encrypted, too long, or has no text layer.
    """
    # Only now: it takes a tenth of a second to import, and a server that starts reads no PDF.
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableFile("is encrypted", source=source)
        if len(reader.pages) > MAX_PAGES:
            raise UnreadableFile(f"has more than {MAX_PAGES} pages", source=source)
        title = _WRITER.sub("", tidy(str((reader.metadata and reader.metadata.title) or "")))
        pages = [page.extract_text() or "" for page in reader.pages]
    except UnreadableFile:
        raise
    except PyPdfError as error:
        raise UnreadableFile(f"is no readable PDF ({type(error).__name__})", source=source) from error
    except Exception as error:  # a parser of hostile input: any exception of it is this file's, not the ingest's
        raise UnreadableFile(f"is a damaged PDF ({type(error).__name__})", source=source) from error
    lines = [[line for line in map(str.strip, page.split("\n")) if line] for page in pages]
    running = _running_lines(lines)
    lines = _without_numbers(lines)
    sections = []
    first = next((page for page in lines if page), [])
    if title.lower() in {"", *_NO_TITLE}:
        title = title_of(source, first)  # takes the line off the page
    elif first and first[0].lower() == title.lower():
        del first[0]
    for number, page in enumerate(lines, 1):
        kept = [line for line in page if line not in running and not _PAGE_NUMBER.match(line)]
        if blocks := _paragraphs(kept):
            sections.append(Section((f"page {number}",) if len(pages) > 1 else (), tuple(blocks)))
    if not sections:
        raise UnreadableFile("has no text layer", source=source)
    return [Article(source, title, tuple(sections))]


def _running_lines(pages: list[list[str]]) -> frozenset[str]:
    if len(pages) < 4:
        return frozenset()
    seen = Counter(line for page in pages for line in {*page[:2], *page[-2:]})
    return frozenset(line for line, times in seen.items() if times > len(pages) / 2)


def _without_numbers(pages: list[list[str]]) -> list[list[str]]:
    """Take the page numbers off: bare numbers first or last on a page that count on with most pages. Others are prices
    and years of a table.
    """
    found = [
        {int(number[1]) - place: line for line in {*page[:1], *page[-1:]} if (number := _BARE_NUMBER.match(line))}
        for place, page in enumerate(pages, 1)
    ]
    offsets = Counter(offset for page in found for offset in page)
    offset, times = max(offsets.items(), key=lambda item: item[1], default=(0, 0))
    if times <= len(pages) / 2 or (len(pages) == 1 and offset):
        return pages
    return [[line for line in page if line != own.get(offset)] for page, own in zip(pages, found, strict=True)]


def _paragraphs(lines: list[str]) -> list[str]:
    """Join wrapped lines: a line goes on unless it ends a sentence or is much shorter than the page's longest."""
    width = max((len(line) for line in lines), default=0)
    blocks: list[str] = []
    current: list[str] = []
    for line in lines:
        current.append(line)
        if line.endswith((".", "!", "?", ":")) or len(line) < 0.6 * width:
            blocks.append(tidy(_HYPHEN.sub(r"\1\2", "\n".join(current))))
            current = []
    if current:
        blocks.append(tidy(_HYPHEN.sub(r"\1\2", "\n".join(current))))
    return [block for block in blocks if block]
