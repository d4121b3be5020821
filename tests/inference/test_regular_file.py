from __future__ import annotations

import os
from pathlib import Path

import pytest

from inference import regular_file
from inference.regular_file import FileTooLargeError, NotRegularFileError, read_small


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("yes\n")
    (tmp_path / "link").symlink_to("labels.txt")
    assert read_small(tmp_path / "labels.txt") == read_small(tmp_path / "link") == b"yes\n"


def test_what_never_ends_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "zero", tmp_path):
        with pytest.raises(NotRegularFileError):
            read_small(path)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "none")


def test_what_is_larger_than_any_such_file_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regular_file, "MAX_SMALL_BYTES", 4)
    (tmp_path / "fits").write_bytes(b"1234")
    (tmp_path / "large").write_bytes(b"12345")
    assert read_small(tmp_path / "fits") == b"1234"
    with pytest.raises(FileTooLargeError):
        read_small(tmp_path / "large")
