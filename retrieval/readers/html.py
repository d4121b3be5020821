"""HTML → one article, by the standard library's tolerant parser: broken markup is text all the same."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from retrieval.article import Article, Audience, Section, labels
from retrieval.readers.text import decode, name_of, tidy

_DECLARED = re.compile(rb"<meta[^>]+charset=[\"']?([\w-]+)", re.IGNORECASE)
_SILENT = frozenset({"script", "style", "noscript", "template", "svg", "nav", "footer", "form", "button", "select"})
_BLOCK = frozenset(
    {"p", "div", "li", "tr", "br", "td", "th", "section", "article", "main", "ul", "ol", "table", "dt", "dd", "pre"}
    | {"blockquote", "header", "aside", "figure", "figcaption", "hr", "body", "caption", "summary", "details"}
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


def read_html(data: bytes, source: str) -> list[Article]:
    """Read an HTML page: its `h1` or `title`, its headings, its text without menus and scripts.

    `<meta name="rights" content="…">` and `queues` restrict it.

    Raises:
        UnreadableFile: If it is no text.
    """
    declared = _DECLARED.search(data[:4096])
    page = _Page()
    page.feed(decode(data, source, declared[1].decode("ascii", "replace") if declared else ""))
    page.close()
    page.end_block()
    page.end_section()
    audience = Audience(labels(page.meta.get("rights")), labels(page.meta.get("queues")))
    return [Article(source, page.h1 or tidy(page.title) or name_of(source), tuple(page.sections), audience)]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.h1 = ""
        self.meta: dict[str, str] = {}
        self.sections: list[Section] = []
        self._path: list[tuple[int, str]] = []
        self._blocks: list[str] = []
        self._text: list[str] = []
        self._silent: list[str] = []
        self._heading = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "meta":
            found = dict(attrs)
            self.meta[(found.get("name") or "").lower()] = found.get("content") or ""
        elif tag in _SILENT:
            self._silent.append(tag)
        elif tag == "title":
            self._in_title = True
        elif tag in _HEADINGS:
            self.end_block()
            self._heading = _HEADINGS[tag]
        elif tag in _BLOCK and tag not in ("td", "th"):
            self.end_block()

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silent:  # also closes what was left open inside
            del self._silent[self._silent.index(tag) :]
        elif tag == "title":
            self._in_title = False
        elif tag in _HEADINGS and self._heading:
            self._end_heading()
        elif tag in ("td", "th"):
            self._text.append(" ")
        elif tag in _BLOCK:
            self.end_block()

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._silent:
            self._text.append(data)

    def end_block(self) -> None:
        if self._heading:
            self._end_heading()
        elif line := tidy("".join(self._text)):
            self._blocks.append(line)
        self._text.clear()

    def end_section(self) -> None:
        if self._blocks:
            self.sections.append(Section(tuple(name for _, name in self._path), tuple(self._blocks)))
            self._blocks.clear()

    def _end_heading(self) -> None:
        name, level = tidy("".join(self._text)), self._heading
        self._text.clear()
        self._heading = 0
        if not name:
            return
        self.end_section()
        if level == 1 and not self.h1:
            self.h1 = name
            return
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        self._path.append((level, name))
