"""Files → articles. One module a format; `READERS` maps suffixes, and adding a format is adding a module and its line.

file ─▶ size and suffix ─▶ reader ─▶ articles (source, title, sections, audience)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from retrieval.article import Article
from retrieval.errors import UnreadableFile
from retrieval.readers.docx import read_docx
from retrieval.readers.faq import read_csv, read_json
from retrieval.readers.html import read_html
from retrieval.readers.markdown import read_markdown
from retrieval.readers.pdf import read_pdf

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_TEXT_FILE_BYTES = 32 * 1024 * 1024
"""A text this long is no article but a dump; it would hold an ingest for minutes."""

Reader = Callable[[bytes, str], list[Article]]
"""Bytes of a file and its source to its articles; raises `UnreadableFile`."""

READERS: dict[str, Reader] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".txt": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".json": read_json,
    ".csv": read_csv,
}


def read_file(path: Path, source: str) -> list[Article]:
    """Read one file.

    Args:
        path: The file.
        source: Its path relative to the ingested folder, with forward slashes.

    Returns:
        Its articles, those of a title alone included: whoever reads a folder tells which were left out.

    Raises:
        UnreadableFile: With the reason, whatever is wrong with it.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UnreadableFile(f"no reader for {path.suffix or 'files without a suffix'}", source=source)
    try:
        size = path.stat().st_size
        limit = MAX_FILE_BYTES if reader in (read_pdf, read_docx) else MAX_TEXT_FILE_BYTES
        if size > limit:
            raise UnreadableFile(f"larger than {limit // 2**20} MiB", source=source)
        articles = reader(path.read_bytes(), source)
    except OSError as error:
        raise UnreadableFile(f"cannot be read ({type(error).__name__})", source=source) from error
    except RecursionError as error:
        raise UnreadableFile("nested too deeply", source=source) from error
    except UnreadableFile:
        raise
    except Exception as error:  # of a parser, of what anybody may have written: it costs this file, not the ingest
        raise UnreadableFile(f"is damaged ({type(error).__name__})", source=source) from error
    if not any(article.has_text for article in articles):
        raise UnreadableFile("holds no text", source=source)
    return articles
