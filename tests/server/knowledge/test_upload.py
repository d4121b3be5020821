"""Archives that somebody sends."""

import errno
import io
import os
import random
import zipfile

import pytest

from server.knowledge import upload
from server.knowledge.upload import unpack
from server.wire.errors import BadRequest, TooLarge, Unavailable


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


@pytest.mark.parametrize(
    "kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=str
)
def test_whatever_is_damaged_the_archive_is_to_blame(tmp_path, kind):
    """By BadZipFile, zlib.error, OSError, LZMAError, ValueError, UnicodeError, … as the decompressor may be."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as target:
        target.writestr("é.md", "# Refund\n\n" + "A refund takes five days. " * 20)
    whole, chance, refused = buffer.getvalue(), random.Random(1), 0
    for number in range(300):
        torn = bytearray(whole)
        for _ in range(2):
            torn[chance.randrange(len(torn))] = chance.randrange(256)
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            unpack(bytes(torn), folder)  # a byte that means nothing does no harm
        except (BadRequest, TooLarge):  # and nothing else
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("code", "is_theirs"),
    [(errno.ENOSPC, False), (errno.EACCES, False), (errno.EROFS, False), (errno.ENAMETOOLONG, True)],
    ids=["full", "denied", "read-only", "name"],
)
def test_what_the_disk_refuses_is_no_fault_of_the_archive(tmp_path, monkeypatch, code, is_theirs):
    def refuse(*_):
        raise OSError(code, os.strerror(code), "/a/secret/path")

    monkeypatch.setattr(upload, "_write", refuse)
    with pytest.raises(BadRequest if is_theirs else Unavailable) as raised:
        unpack(archive(**{"a.md": "# A"}), tmp_path)
    assert raised.value.retryable is not is_theirs
    assert "secret" not in raised.value.message
    assert is_theirs or os.strerror(code) in raised.value.message


@pytest.mark.parametrize("names", [("a", "a/b.md"), ("a/b.md", "a"), ("x" * 300 + ".md",)])
def test_names_that_make_no_folder(tmp_path, names):
    with pytest.raises(BadRequest, match="names"):
        unpack(archive(**dict.fromkeys(names, "# A")), tmp_path)


def test_sizes_are_counted_and_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(upload, "MAX_FILE_BYTES", 1000)
    with pytest.raises(TooLarge):
        unpack(archive(**{"bomb.txt": "0" * 5000}), tmp_path)
    monkeypatch.setattr(upload, "MAX_TOTAL_BYTES", 2500)
    with pytest.raises(TooLarge, match="more than 2500 bytes"):
        unpack(archive(**{f"{name}.txt": "0" * 900 for name in "abc"}), tmp_path)
    monkeypatch.setattr(upload, "MAX_FILES", 2)
    with pytest.raises(TooLarge):
        unpack(archive(a="1", b="2", c="3"), tmp_path)
