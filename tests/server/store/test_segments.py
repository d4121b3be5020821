from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.store.segments import Segments
from tests.examples import examples

PAYLOADS = st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=5)


def segments(folder: Path, max_segment_bytes: int = 200, max_page_payloads: int = 4) -> Segments:
    return Segments(folder, max_segment_bytes=max_segment_bytes, max_page_payloads=max_page_payloads)


def drain(journal: Segments) -> list[bytes]:
    read: list[bytes] = []
    while (page := journal.next_page()) is not None:
        read += page.payloads
        journal.forget(page)
    assert journal.read == journal.end
    return read


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


@settings(deadline=None)
@given(batches=st.lists(PAYLOADS, max_size=6), drained_after=st.sets(st.integers(0, 5)))
def test_everything_is_read_once_in_order_and_deleted(batches: list[list[bytes]], drained_after: set[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        journal = segments(Path(name))
        assert journal.open() == 0
        read: list[bytes] = []
        for number, batch in enumerate(batches):
            journal.write(batch)
            if number in drained_after:
                read += drain(journal)
        read += drain(journal)
        assert read == [payload for batch in batches for payload in batch]
        journal.close()
        assert files(Path(name)) == []


@settings(deadline=None, max_examples=examples(200))
@given(batches=st.lists(PAYLOADS, min_size=1, max_size=6), num_pages=st.integers(0, 4), data=st.data())
def test_a_crash_at_any_byte_loses_nothing_acknowledged(
    batches: list[list[bytes]], num_pages: int, data: st.DataObject
) -> None:
    """The write that was going on leaves any part of itself, or anything, at the end of the last file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = segments(folder)
        journal.open()
        for batch in batches[:-1]:
            journal.write(batch)
        forgotten: list[bytes] = []
        for _ in range(num_pages):
            if (page := journal.next_page()) is not None:
                forgotten += page.payloads
                journal.forget(page)
        acknowledged = [payload for batch in batches[:-1] for payload in batch]
        sizes = {path: path.stat().st_size for path in files(folder)}
        journal.write(batches[-1])
        torn = files(folder)[-1]
        keep = data.draw(st.integers(sizes.get(torn, 0), torn.stat().st_size))
        os.truncate(torn, keep)
        with torn.open("ab") as file:
            file.write(data.draw(st.binary(max_size=30)))

        again = segments(folder)
        again.open()
        read = drain(again)
        assert set(acknowledged) <= set(forgotten) | set(read)
        everything = acknowledged + batches[-1]
        # What is read again after the crash is a stretch of what was written: nothing skipped, nothing in between.
        assert any(read == everything[start : start + len(read)] for start in range(len(everything) + 1))
        again.write([b"later"])
        assert drain(again) == [b"later"]
        again.close()
        journal.close()


@settings(deadline=None)
@given(batches=st.lists(PAYLOADS, min_size=1, max_size=6), data=st.data())
def test_damage_anywhere_costs_one_payload(batches: list[list[bytes]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = segments(folder)
        journal.open()
        for batch in batches:
            journal.write(batch)
        journal.close()
        hit = data.draw(st.sampled_from(files(folder)))
        content = bytearray(hit.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 0x55
        hit.write_bytes(content)
        again = segments(folder)
        again.open()
        written = [payload for batch in batches for payload in batch]
        read = drain(again)
        assert len(read) == len(written) - 1
        assert any(read == written[:lost] + written[lost + 1 :] for lost in range(len(written)))
        again.close()


@pytest.mark.parametrize("call", ["write", "fdatasync", "open"])
def test_a_failed_write_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    journal = segments(tmp_path)
    journal.open()
    if call != "open":
        journal.write([b"before"])

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        for _ in range(3):
            with pytest.raises(OSError, match="no space"):
                journal.write([b"a", b"b"])
    journal.write([b"a", b"b"])
    journal.write([b"c"])
    read = drain(journal)
    assert read == ([b"before"] if call != "open" else []) + [b"a", b"b", b"c"]
    journal.close()


def test_total_bytes_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    journal = segments(tmp_path)
    journal.open()
    for _ in range(10):
        journal.write([bytes(50)])
        assert journal.total_bytes == sum(path.stat().st_size for path in files(tmp_path))
    page = journal.next_page()
    assert page is not None
    journal.forget(page)
    assert journal.total_bytes == sum(path.stat().st_size for path in files(tmp_path))
    journal.close()
