"""A cell alone says nothing: where a table names its columns, every row has the names, in whatever passage it lands."""

from retrieval.readers.docx import read_docx
from retrieval.readers.html import read_html
from retrieval.readers.markdown import read_markdown
from tests.retrieval.readers.word import docx, paragraph, table

ROWS = ("Plan: Basic, Towing: no", "Plan: Plus, Towing: yes")


def blocks_of(articles: list) -> tuple[str, ...]:  # type: ignore[type-arg]
    return tuple(block for section in articles[0].sections for block in section.blocks)


def test_markdown() -> None:
    text = "# Plans\n\n| Plan | Towing |\n|---|:-:|\n| Basic | no |\n| **Plus** | yes |\n\nAsk first."
    assert blocks_of(read_markdown(text.encode(), "a.md")) == (*ROWS, "Ask first.")


def test_markdown_without_names_or_with_other_cells() -> None:
    assert blocks_of(read_markdown(b"# A\n\n| Basic | no |\n| Plus | yes |", "a.md")) == ("Basic, no", "Plus, yes")
    text = "# A\n\n| Plan | Towing |\n|--|--|\n| Basic | no | x |\n| a\\|b | |"
    assert blocks_of(read_markdown(text.encode(), "a.md")) == ("Basic, no, x", "Plan: a|b")


def test_html() -> None:
    head = "<h1>Plans</h1><table><thead><tr><th><p>Plan</p><th>Towing</thead>"
    rows = "<tr><td>Basic<td><p>no</p></tr><tr><th>Plus</th><td>yes</td></tr></table><p>Ask <b>first</b>."
    assert blocks_of(read_html((head + rows).encode(), "a.html")) == (*ROWS, "Ask first.")


def test_html_laid_out_in_a_table_and_with_names_in_the_first_column() -> None:
    page = "<h1>A</h1><table><tr><td><p>One.</p><p>Two.</p></td></tr><tr><th>Phone</th><td>0800 1</td></tr></table>"
    assert blocks_of(read_html(page.encode(), "a.html")) == ("One.", "Two.", "Phone 0800 1")
    page = "<h1>A</h1><table><tr><th>a</th><th>b</th></tr><tr><td colspan=2>both</td></tr></table><table><tr><td>c<td>d"
    assert blocks_of(read_html(page.encode(), "a.html")) == ("both", "c d")


def test_word() -> None:
    body = paragraph("Plans", "Title") + table(["Plan", "Towing"], ["Basic", "no"], ["Plus", "yes"], has_header=True)
    assert blocks_of(read_docx(docx(body), "a.docx")) == ROWS
    body = paragraph("Plans", "Title") + table(["Phone", "0800 1"], ["Hours", "8 to 18"])
    assert blocks_of(read_docx(docx(body), "a.docx")) == ("Phone, 0800 1", "Hours, 8 to 18")


def test_a_table_in_a_cell_is_read_once() -> None:
    inner = table(["Lock needed"])
    body = paragraph("Plans", "Title") + table(["Plus", "yes"]).replace(
        "yes</w:t></w:r></w:p>", f"yes</w:t></w:r></w:p>{inner}"
    )
    assert blocks_of(read_docx(docx(body), "a.docx")) == ("Plus, yes Lock needed",)
