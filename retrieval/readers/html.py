"""HTML → one article, by the standard library's tolerant parser: broken markup is text all the same."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from retrieval.article import Article, Audience, Section
from retrieval.readers.text import decode, name_of, row_line, tidy

_DECLARED = re.compile(rb"<meta[^>]+charset=[\"']?([\w-]+)", re.IGNORECASE)
_TAG = re.compile(r"</?(?:p|div|br|ul|ol|li|b|strong|i|em|a|span|h[1-6]|table|td)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_MAX_UNCLOSED = 100
"""Comments that are begun and not ended; a script may hold the mark of one in a string."""
_SILENT = frozenset(
    {"script", "style", "noscript", "template", "svg", "nav", "footer", "button", "select", "label", "textarea"}
)
"""Not `form`: some systems put the whole page into one."""
_BLOCK = frozenset(
    {"p", "div", "li", "br", "section", "article", "main", "ul", "ol", "dt", "dd", "pre"}
    | {"blockquote", "header", "aside", "figure", "figcaption", "hr", "body", "caption", "summary", "details"}
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


def read_html(data: bytes, source: str) -> list[Article]:
    """Read an HTML page: its `h1` or `title`, its headings, its text without menus and scripts; of a page that has a
    `main`, what is in it.

    `<meta name="rights" content="…">` and `queues` restrict it.

    Raises:
        UnreadableFile: If it is no text.
    """
    declared = _DECLARED.search(data[:4096])
    page = _Page()
    page.read(decode(data, source, declared[1].decode("ascii", "replace") if declared else ""))
    title = page.h1 or page.h1_outside or tidy(page.title) or name_of(source)
    return [Article(source, title, tuple(page.main or page.sections), Audience.of(page.meta))]


def is_markup(text: str) -> bool:
    """Whether a field of an export is HTML; `<order number>` is not."""
    return _TAG.search(text) is not None


def read_fragment(text: str) -> list[Section]:
    """Read a field that is HTML; its headings are all below the entry's title."""
    page = _Page(has_title=True)
    page.read(text)
    return page.main or page.sections


class _Page(HTMLParser):
    def __init__(self, *, has_title: bool = False) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.h1 = ""
        self._has_title = has_title
        self.h1_outside = ""
        self.meta: dict[str, str] = {}
        self.sections: list[Section] = []
        self.main: list[Section] = []
        self._path: list[tuple[int, str]] = []
        self._blocks: list[str] = []
        self._text: list[str] = []
        self._silent: list[str] = []
        self._heading = 0
        self._in_title = False
        self._in_main = False
        self._in_header = False
        self._columns: list[str] = []
        self._cells: list[str] = []
        self._kinds: set[str] = set()
        self._cell_start: int | None = None

    def read(self, text: str) -> None:
        """Take the whole page, but for a tag or a comment that is never closed: the parser would look for its end again
        from every mark behind it.
        """
        before, end, rest = text.rpartition(">")
        text = before + end + rest.partition("<")[0]
        unclosed = text.find("<!--", text.rfind("-->") + 1)
        self.feed(text[:unclosed] if unclosed >= 0 and text.count("<!--", unclosed) > _MAX_UNCLOSED else text)
        self.close()
        self.end_block()
        self.end_section()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "meta":
            found = dict(attrs)
            self.meta[(found.get("name") or "").lower()] = found.get("content") or ""
        elif tag in _SILENT:
            self._silent.append(tag)
        elif tag == "title":
            self._in_title = not self._silent  # a drawing has one of its own
        elif tag in _HEADINGS:
            self.end_block()
            self._heading = _HEADINGS[tag]
        elif tag in ("tr", "table"):
            self._end_row()
            self._columns = [] if tag == "table" else self._columns
        elif tag in ("td", "th"):
            self._end_cell()
            self._kinds.add(tag)
            self._cell_start = len(self._text)
        elif tag in _BLOCK:
            self._break()
            self._enter(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silent:  # also closes what was left open inside
            del self._silent[self._silent.index(tag) :]
        elif tag == "title":
            self._in_title = False
        elif tag in _HEADINGS and self._heading:
            self._end_heading()
        elif tag in ("tr", "table"):
            self._end_row()
            self._columns = [] if tag == "table" else self._columns
        elif tag in ("td", "th"):
            self._end_cell()
        elif tag in _BLOCK:
            self._break()
            self._leave(tag)

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._silent and (self._heading or not self._in_header):
            self._text.append(data)

    def end_block(self) -> None:
        if self._heading:
            self._end_heading()
        elif line := tidy("".join(self._text)):
            self._blocks.append(line)
        self._text.clear()

    def end_section(self) -> None:
        if self._blocks:
            section = Section(tuple(name for _, name in self._path), tuple(self._blocks))
            self.sections.append(section)
            if self._in_main:
                self.main.append(section)
            self._blocks.clear()

    def _enter(self, tag: str) -> None:
        if tag == "main" and not self.main:
            self.end_section()
            self._path.clear()
            self.h1_outside, self.h1 = self.h1, ""  # of the site, not of the article
        if tag in ("main", "article"):
            self._in_main, self._in_header = self._in_main or tag == "main", False
        elif tag == "header" and not self._in_main:
            self._in_header = True  # a logo, a search field; its headings count

    def _leave(self, tag: str) -> None:
        if tag == "main":
            self.end_section()
            self._in_main = False
        elif tag == "header":
            self._in_header = False

    def _break(self) -> None:
        """End a block, but not inside a cell of a column that has a name, or of a header."""
        if self._cell_start is not None and (self._columns or "td" not in self._kinds):
            self._text.append(" ")
        else:
            self.end_block()

    def _end_cell(self) -> None:
        if self._cell_start is not None:
            self._cells.append(tidy("".join(self._text[self._cell_start :])))
            self._text.append(" ")
            self._cell_start = None

    def _end_row(self) -> None:
        """End a table's row: a header names the columns below; without one a row is text like other, since whole pages
        are laid out in tables.
        """
        self._end_cell()
        if self._kinds == {"th"} and len(self._cells) > 1:
            self._columns = list(self._cells)
            self._text.clear()
        elif self._columns and self._cells:
            self._blocks.extend(filter(None, [row_line(self._cells, self._columns)]))
            self._text.clear()
        else:
            self.end_block()
        self._cells.clear()
        self._kinds.clear()

    def _end_heading(self) -> None:
        name, level = tidy("".join(self._text)), self._heading
        self._text.clear()
        self._heading = 0
        if not name:
            return
        self.end_section()
        if level == 1 and not self.h1 and not self._has_title:
            self.h1 = name
            return
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        self._path.append((level, name))
