import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ingest.connect import matroska as mkv
from server.ingest.connect.matroska import Close, MatroskaParser, Open, Value
from server.simulators.connect import media
from server.simulators.connect.media import element
from server.wire.errors import BadAudio
from tests.server.ingest.connect.streams import fragments

BODY = fragments("contact", 3) + media.head("7", 5000.0, 5000.0) + media.block(1, 0, b"ab") + media.tail("c", "7", 0)


def parsed(data: bytes, cuts=()) -> list:
    parser, found, start = MatroskaParser(), [], 0
    for cut in [*sorted(cuts), len(data)]:
        found += parser.feed(data[start:cut])
        start = max(start, cut)
    return found


@given(st.lists(st.integers(0, len(BODY)), max_size=40))
def test_where_the_bytes_are_cut_does_not_matter(cuts):
    assert parsed(BODY, cuts) == parsed(BODY)


def test_an_element_leaves_with_its_last_byte():
    parser = MatroskaParser()
    head = media.head("1", 0.0, 0.0)
    block = media.block(1, 0, b"\1\2" * 512)
    parser.feed(head)
    assert parser.feed(block[:-1]) == []
    assert parser.feed(block[-1:]) == [Value(mkv.SIMPLE_BLOCK, block[-1028:])]


def test_masters_of_unknown_size_end_with_what_cannot_be_inside():
    found = parsed(media.head("1", 0.0, 0.0) + media.tail("c", "1", 0) + media.head("2", 0.0, 0.0))
    order = [e for e in found if isinstance(e, Open | Close) and e.id in (mkv.SEGMENT, mkv.CLUSTER)]
    assert order[:4] == [Open(mkv.SEGMENT), Open(mkv.CLUSTER), Close(mkv.CLUSTER), Close(mkv.SEGMENT)]
    assert order[4:] == [Open(mkv.SEGMENT), Open(mkv.CLUSTER)]


def test_what_nobody_asked_for_is_skipped_and_not_kept():
    parser = MatroskaParser()
    parser.feed(element(mkv.SEGMENT, b"", is_unknown_size=True) + b"\xec\x10\x0f\xff\xff")  # a megabyte of padding
    for _ in range(255):
        assert parser.feed(bytes(4096)) == []
        assert len(parser._buffer) < 16


def test_work_is_linear_in_the_bytes(monkeypatch):
    """Counted, not timed: headers looked at for each byte fed, whatever the size of the stream."""
    looks = 0
    original = MatroskaParser._header

    def counted(self):
        nonlocal looks
        looks += 1
        return original(self)

    monkeypatch.setattr(MatroskaParser, "_header", counted)

    def cost(num_fragments: int) -> float:
        nonlocal looks
        looks = 0
        body = fragments("c", num_fragments)
        parser = MatroskaParser()
        for at in range(0, len(body), 7):
            parser.feed(body[at : at + 7])
        return looks / len(body)

    assert cost(16) == pytest.approx(cost(4), rel=0.02)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0\0",  # no id
        b"<html><body>Service Unavailable</body></html>",
        b"\x1a\x45\xdf\xa3\0",  # no size
        element(mkv.SEGMENT, element(mkv.INFO, b"\x2a\xd7\xb1\x84\1\2\3")),  # a child longer than its parent
        element(mkv.SEGMENT, b"", is_unknown_size=True) + b"\xa3\x10\x20\x00\x00",  # a block of two megabytes
        element(mkv.SEGMENT, b"", is_unknown_size=True) + b"\xec\x08\x7f\xff\xff\xff",  # padding without end
        element(mkv.SEGMENT, b"", is_unknown_size=True) + b"\xa3\xff",  # a leaf of unknown size
    ],
)
def test_bytes_that_are_no_fragment_are_refused(data):
    with pytest.raises(BadAudio):
        parsed(data)


@given(st.binary(max_size=400), st.integers(0, len(BODY)))
def test_garbage_is_refused_or_skipped_but_never_breaks_the_parser(garbage, at):
    parser = MatroskaParser()
    with contextlib.suppress(BadAudio):
        parser.feed(BODY[:at] + garbage + BODY[at:])
    assert len(parser._buffer) <= mkv.MAX_VALUE_BYTES + 16
