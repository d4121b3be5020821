"""Archives that somebody sends."""

import io
import zipfile

import pytest

from server.knowledge import upload
from server.knowledge.upload import unpack
from server.wire.errors import BadRequest, TooLarge


def archive(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return buffer.getvalue()


def test_articles_keep_their_folders(tmp_path):
    unpack(archive(**{"faq/refund.md": "# Refund", "a.md": "# A", "empty/": ""}), tmp_path)
    assert (tmp_path / "faq" / "refund.md").read_text() == "# Refund"
    assert (tmp_path / "a.md").is_file()


@pytest.mark.parametrize("name", ["../evil.md", "/etc/evil.md", "a/../../evil.md", "..\\evil.md", "C:/evil.md"])
def test_nothing_leaves_the_folder(tmp_path, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(BadRequest):
        unpack(archive(**{name: "x"}), inner)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "damage", [b"", b"no zip", archive(**{"a.md": "# A" * 100})[:-30]], ids=["empty", "text", "cut"]
)
def test_what_is_no_archive_is_refused(tmp_path, damage):
    with pytest.raises(BadRequest):
        unpack(damage, tmp_path)


def test_sizes_are_counted_and_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(upload, "MAX_FILE_BYTES", 1000)
    with pytest.raises(TooLarge):
        unpack(archive(**{"bomb.txt": "0" * 5000}), tmp_path)
    monkeypatch.setattr(upload, "MAX_FILES", 2)
    with pytest.raises(TooLarge):
        unpack(archive(a="1", b="2", c="3"), tmp_path)
