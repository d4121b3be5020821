"""What real systems write: exports, office programs, content systems."""

import json
from pathlib import Path

import pytest

from retrieval.article import Article
from retrieval.errors import UnreadableFile
from retrieval.ingest import read_folder
from retrieval.readers import READERS, read_file
from retrieval.readers.docx import read_docx
from retrieval.readers.html import read_html
from retrieval.readers.markdown import read_markdown
from retrieval.readers.pdf import _WRITER, _without_numbers
from tests.retrieval.readers.word import docx, paragraph


def texts(article: Article) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(section.headings, section.blocks) for section in article.sections]


def test_a_title_in_front_matter_is_not_taken_for_by_the_first_part() -> None:
    (article,) = read_markdown(b"---\ntitle: Returns\n---\n## When\n\nWithin 30 days.\n\n## How\n\nBy post.\n", "a.md")
    assert article.title == "Returns"
    assert texts(article) == [(("When",), ("Within 30 days.",)), (("How",), ("By post.",))]


def test_markdown_is_shown_without_its_marks() -> None:
    text = (
        "# A\n\n*One* _two_ \\*three\\* H<sub>2</sub>O a<br>b&nbsp;&amp; <order number> [c][d] snake_case_x 2 * 3 * 4"
    )
    text += "\n\n[d]: https://e.test/f"
    text += "\n- [x] done\n\n> > quoted\n\n[Agent]: hello"
    (article,) = read_markdown(text.encode(), "a.md")
    assert article.sections[0].blocks == (
        "One two *three* H2O a b & <order number> c snake_case_x 2 * 3 * 4",
        "done",
        "quoted",
        "[Agent]: hello",
    )


def test_a_page_in_a_form_or_with_a_main_part() -> None:
    (article,) = read_html(b"<form><h1>Fees</h1><label>Search</label><input><p>Two euros.</form>", "a.html")
    assert texts(article) == [((), ("Two euros.",))]
    page = b"<title>Site</title><header><svg><title>Icon</title></svg>Logo<h1>Shop help</h1></header>"
    page += b"<div>Home, Help</div><main><h1>Fees</h1><p>Two euros.</p></main><div>Was this helpful?</div>"
    (article,) = read_html(page, "a.html")
    assert (article.title, texts(article)) == ("Fees", [((), ("Two euros.",))])
    (article,) = read_html(page.replace(b"main>", b"div>"), "a.html")
    assert article.title == "Shop help"
    assert texts(article)[0] == ((), ("Home, Help",))
    (article,) = read_html(b"<title>Fees</title><svg><title>Icon</title></svg><p>Two euros.", "a.html")
    assert article.title == "Fees"


def test_word_controls_are_read_and_a_table_of_contents_is_not() -> None:
    def control(content: str, properties: str = "") -> str:
        return f"<w:sdt><w:sdtPr>{properties}</w:sdtPr><w:sdtContent>{content}</w:sdtContent></w:sdt>"

    gallery = '<w:docPartObj><w:docPartGallery w:val="Table of Contents"/></w:docPartObj>'
    body = paragraph("Insurance", "Title") + control(paragraph("Claims 1"), gallery)
    body += control(paragraph("Claims", "Heading1") + control(paragraph("Within a week.")))
    (article,) = read_docx(docx(body), "a.docx")
    assert (article.title, texts(article)) == ("Insurance", [(("Claims",), ("Within a week.",))])


def test_numbers_of_pages_go_and_those_of_tables_stay() -> None:
    pages = [["Fees", "49", "119"], ["Years", "2023", "2"], ["3", "2024", "4 euros"]]
    assert _without_numbers(pages) == [["Fees", "49", "119"], ["Years", "2023"], ["2024", "4 euros"]]
    assert _without_numbers([["Fees", "49"]]) == [["Fees", "49"]]
    assert _without_numbers([["Fees", "49", "1"]]) == [["Fees", "49"]]
    shifted = [["- 11 -", "a"], ["- 12 -", "b"], ["c", "13 / 40"]]
    assert _without_numbers(shifted) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("title", ["Microsoft Word - Refunds.docx", "Refunds.indd", "Refunds"])
def test_a_pdf_is_not_named_after_its_program(title: str) -> None:
    assert _WRITER.sub("", title) == "Refunds"


@pytest.mark.parametrize(
    "text",
    [
        "Frage;Antwort\nWas kostet es?;29,90 Euro, mit Montage 45,50 Euro.\nWie lange?;2,5 Tage, selten 3.\n",
        "sep=;\nQuestion;Answer\nWas kostet es?;29,90 Euro, mit Montage 45,50 Euro.\n",
        "question\tanswer\nWas kostet es?\t29,90 Euro, mit Montage 45,50 Euro.\n",
        'question,answer\n"Was kostet es?","29,90 Euro, mit Montage 45,50 Euro."\n',
    ],
)
def test_the_header_tells_what_separates_the_columns(text: str) -> None:
    article = READERS[".csv"](text.encode(), "faq.csv")[0]
    assert article.title == "Was kostet es?"
    assert [section.blocks for section in article.sections] == [("29,90 Euro, mit Montage 45,50 Euro.",)]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "question,answer\nHow?,So.\nHow long?,Two days, sometimes three.\n", "line 3 has more fields"),
        ("a.csv", "Can I pay later?,Yes.\nCan I return it?,Within 30 days.\n", "names no columns"),
        ("a.json", '{\n "a": 1,\n "b" 2\n}', r"JSON \(line 3\)"),
        ("a.json", '[\n {"a": 1},\n', r"JSON \(line 3\)"),
    ],
)
def test_a_damaged_file_is_told_with_its_line(name: str, content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UnreadableFile, match=reason):
        read_file(tmp_path / name, name)


def test_trailing_delimiters_and_blank_lines_of_a_sheet_do_no_harm() -> None:
    articles = READERS[".csv"](b'question,answer,,\n\n,,,\nHow?,"So,\nand so.",,\n', "faq.csv")
    assert [texts(article) for article in articles] == [[((), ("So,", "and so."))]]


def test_a_question_without_an_answer_is_left_out_and_told(tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text("question,answer\nHow?,So.\nDo you sell child seats?,\n")
    (tmp_path / "faq.json").write_text(json.dumps([{"title": "Nothing else"}, {"title": "Fees", "text": "Two euros."}]))
    articles, skipped, _ = read_folder(tmp_path, lambda *_: None)
    assert [article.source for article in articles] == ["faq.csv#how", "faq.json#fees"]
    assert [(entry.source, entry.reason) for entry in skipped] == [
        ("faq.csv#do-you-sell-child-seats", "has no text"),
        ("faq.json#nothing-else", "has no text"),
    ]


def test_an_export_of_a_help_centre_is_read_as_its_articles() -> None:
    body = "<h1>When</h1><p>Within <b>30 days</b>&nbsp;of delivery.</p><ul><li>unworn</li></ul><h2>How</h2>By post."
    article = {"id": 7, "url": "https://shop.test/7.json", "html_url": "https://shop.test/7", "author_id": 12}
    article |= {"title": "Returns", "body": body, "created_at": "2026-01-02T03:04:05Z", "draft": False}
    export = {"count": 1, "next_page": None, "page": 1, "articles": [article]}
    (found,) = READERS[".json"](json.dumps(export).encode(), "export.json")
    assert (found.source, found.title) == ("export.json#7", "Returns")
    assert texts(found) == [(("When",), ("Within 30 days of delivery.", "unworn")), (("When", "How"), ("By post.",))]
    (row,) = READERS[".csv"](b'question,answer\nHow?,"<p>So <i>and</i> so.</p><p>See above.</p>"\n', "faq.csv")
    assert texts(row)[0] == ((), ("So and so.", "See above."))
