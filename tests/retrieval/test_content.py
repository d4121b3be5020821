from pathlib import Path

import pytest

from retrieval.article import Article, Audience, Section
from retrieval.chunking import chunk
from retrieval.content import Content

SECRET = Audience(rights=frozenset({"supervisor"}))
ARTICLES = (
    Article("a.md", "Refunds", (Section((), ("A refund takes a week.",)), Section(("Gold",), ("Gold waits a day.",)))),
    Article("b.md", "Über uns", (Section((), ("Wir öffnen um neun.",)),), SECRET),
)


def content() -> Content:
    return Content.of([passage for article in ARTICLES for passage in chunk(article)])


def test_what_is_saved_is_read_again_one_by_one_and_together(tmp_path: Path) -> None:
    written = content()
    written.save(tmp_path)
    read = Content.load(tmp_path)
    assert list(read.passages) == list(written.passages)
    assert read.passages[-1] == written.passages[-1]
    assert read.part(1) == list(written.part(1))
    assert read.audiences == written.audiences
    for name in ("part_of", "first_of", "article_of", "audience_of"):
        assert getattr(read, name).tolist() == getattr(written, name).tolist()
    with pytest.raises(IndexError):
        read.passages[len(written.passages)]


def test_a_file_that_fits_no_other_is_torn(tmp_path: Path) -> None:
    content().save(tmp_path)
    with open(tmp_path / "passages.msgpack", "ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="torn"):
        Content.load(tmp_path)
