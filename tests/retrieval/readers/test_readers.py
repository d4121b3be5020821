import contextlib
import io
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfWriter

from retrieval.article import Article
from retrieval.errors import UnreadableFile
from retrieval.readers import READERS, read_file

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def read(tmp_path: Path, name: str, data: str | bytes) -> list[Article]:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_file(path, name)


def test_markdown_keeps_title_path_and_items(tmp_path: Path) -> None:
    text = "---\ntitle: x\n---\n# Refunds\n\nWhat to *do*."
    text += "\n\n## Steps\n\n- [Ask](http://x) first\n- then pay\n\n### Late\n\nNo."
    (article,) = read(tmp_path, "a.md", text)
    assert article.title == "Refunds"
    assert [(s.headings, s.blocks) for s in article.sections] == [
        ((), ("What to do.",)),
        (("Steps",), ("Ask first", "then pay")),
        (("Steps", "Late"), ("No.",)),
    ]


def test_plain_text_has_its_first_line_or_its_name_as_title(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "Refund status\n\nAsk for the order.")[0].title == "Refund status"
    assert read(tmp_path, "late_fee.txt", "Ask for the order.")[0].title == "Late fee"


def test_html_without_menus_and_scripts(tmp_path: Path) -> None:
    page = "<title>T</title><nav>Home</nav><h1>Fees</h1><script>x()</script><p>Two &euro;<p>Ten<h2>Old</h2><li>No"
    (article,) = read(tmp_path, "a.html", page)
    assert article.title == "Fees"
    assert [(s.headings, s.blocks) for s in article.sections] == [((), ("Two €", "Ten")), (("Old",), ("No",))]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    (article,) = read(tmp_path, "a.md", "# Gebühr\n\nFünf Euro für jede Überweisung, “sofort”.".encode(encoding))
    assert article.title == "Gebühr"
    assert "Überweisung, “sofort”" in article.sections[0].blocks[0]


def test_docx_headings_and_tables(tmp_path: Path) -> None:
    def paragraph(text: str, style: str = "") -> str:
        properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
        return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"

    table = f"<w:tbl><w:tr><w:tc>{paragraph('Gold')}</w:tc><w:tc>{paragraph('free')}</w:tc></w:tr></w:tbl>"
    body = paragraph("Levels", "Title") + paragraph("Three.") + paragraph("Table", "Heading1") + table
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("word/document.xml", f'<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>')
    (article,) = read(tmp_path, "a.docx", data.getvalue())
    assert article.title == "Levels"
    assert [(s.headings, s.blocks) for s in article.sections] == [((), ("Three.",)), (("Table",), ("Gold, free",))]


def test_docx_with_entities_is_refused(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("word/document.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    with pytest.raises(UnreadableFile, match="entities"):
        read(tmp_path, "a.docx", data.getvalue())


def test_pdf_without_text_is_reported(tmp_path: Path) -> None:
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    data = io.BytesIO()
    writer.write(data)
    with pytest.raises(UnreadableFile, match="no text layer"):
        read(tmp_path, "scan.pdf", data.getvalue())


def test_pdf_text(tmp_path: Path) -> None:
    stream = b"BT /F1 12 Tf 72 700 Td (Refund status) Tj 0 -20 Td (It takes five days.) Tj ET"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj%sendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % at for at in offsets)
    out += b"trailer<</Root 1 0 R/Size 6>>\nstartxref\n%d\n%%%%EOF" % start
    (article,) = read(tmp_path, "a.pdf", out)
    assert article.title == "Refund status"
    assert article.sections[0].blocks == ("It takes five days.",)


def test_json_in_its_shapes(tmp_path: Path) -> None:
    one = {"title": "Refunds", "text": "Pay.\nFast.", "rights": ["lead"]}
    (article,) = read(tmp_path, "one.json", json.dumps(one))
    assert (article.source, article.title, article.audience.rights) == ("one.json", "Refunds", frozenset({"lead"}))
    many = read(tmp_path, "many.json", json.dumps([{"question": "How?", "answer": "So."}, {"id": 7, "answer": "No."}]))
    assert [article.source for article in many] == ["many.json#how", "many.json#7"]
    steps = {"Refund Status": {"instructions": ["Ask kindly."], "actions": [{"type": "kb", "text": "Look it up."}]}}
    by_key = read(tmp_path, "key.json", json.dumps(steps | {"Boots": {"text": "Dry feet."}}))
    assert [(article.source, article.title) for article in by_key] == [
        ("key.json#Refund Status", "Refund Status"),
        ("key.json#Boots", "Boots"),
    ]
    assert "Look it up." in [block for section in by_key[0].sections for block in section.blocks]


def test_csv_with_semicolons(tmp_path: Path) -> None:
    articles = read(tmp_path, "faq.csv", "Question;Answer\nHow long?;Five days\nHow much?;Ten dollars\n")
    assert [article.source for article in articles] == ["faq.csv#how-long", "faq.csv#how-much"]
    assert articles[0].sections[0].blocks == ("Five days",)


@given(name=st.sampled_from(sorted(READERS)), data=st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_articles_or_a_typed_error(name: str, data: bytes) -> None:
    articles = []
    with contextlib.suppress(UnreadableFile):
        articles = READERS[name](data, f"a{name}")
    assert all(article.title for article in articles)
