"""Files that make a parser raise what it documents nowhere: each is a file left out, not the end of an ingest."""

import io
import zipfile
from pathlib import Path

import pytest

from retrieval.errors import UnreadableFile
from retrieval.readers import read_file


def torn_docx() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", "<w:document>" * 50)
    torn = bytearray(buffer.getvalue())
    start = 30 + len("word/document.xml")
    torn[start : start + 8] = b"\xff" * 8  # what inflates to nothing
    return bytes(torn)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.html", b"<h1>A</h1><![x<p>b"),
        ("dated.md", b"---\ntitle: 2026-13-45\n---\n# A\n\nText.\n"),
        ("letter.docx", torn_docx()),
    ],
)
def test_is_left_out_with_a_reason(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFile) as raised:
        read_file(tmp_path / name, name)
    assert "damaged" in raised.value.reason
