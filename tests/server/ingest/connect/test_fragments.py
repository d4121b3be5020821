import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ingest.connect.fragments import (
    Block,
    ContactTagged,
    FragmentEnded,
    FragmentReader,
    FragmentStarted,
    StreamFailed,
)
from server.simulators.connect import media
from server.simulators.connect.media import Track
from server.wire.errors import BadAudio
from tests.server.ingest.connect.streams import ZERO_MS, fragments, pcm


def test_a_fragment_of_connect_is_read_in_its_order():
    body = media.head("91343852333181531502161607852955530730504675150", ZERO_MS, ZERO_MS)
    body += media.block(1, 0, pcm(1, 0)) + media.block(2, 3, pcm(2, 0)) + media.tail("contact", "token", 78569)
    assert FragmentReader().feed(body) == [
        FragmentStarted("91343852333181531502161607852955530730504675150", ZERO_MS, None),
        Block("customer", ZERO_MS, pcm(1, 0)),
        Block("agent", ZERO_MS + 3, pcm(2, 0)),
        ContactTagged("contact"),
        FragmentEnded("token", 78569),
    ]


@given(st.lists(st.integers(0, 60_000), max_size=30))
def test_where_the_bytes_are_cut_does_not_matter(cuts):
    body = fragments("contact", 4)
    reader, found, start = FragmentReader(), [], 0
    for cut in [*sorted(cuts), len(body)]:
        found += reader.feed(body[start:cut])
        start = max(start, cut)
    assert found == FragmentReader().feed(body)


def test_audio_leaves_before_its_fragment_ends():
    reader = FragmentReader()
    reader.feed(media.head("1", ZERO_MS, ZERO_MS))
    assert reader.feed(media.block(1, 64, b"\1\0")) == [Block("customer", ZERO_MS + 64, b"\1\0")]


@pytest.mark.parametrize(
    ("tracks", "number", "role"),
    [
        ([Track(1, media.TO_CUSTOMER), Track(2, media.FROM_CUSTOMER)], 2, "customer"),
        ([Track(7, media.TO_CUSTOMER)], 7, "agent"),
        ([Track(1, "Track_audio/L16")], 1, "customer"),
        ([Track(1, "video")], 1, None),
        ([Track(1, media.FROM_CUSTOMER)], 2, None),
    ],
)
def test_tracks_go_by_their_names(tracks, number, role):
    events = FragmentReader().feed(media.head("1", 0.0, 0.0, tracks) + media.block(number, 0, b"\0\0"))
    assert [event.role for event in events if isinstance(event, Block)] == ([role] if role else [])


def test_one_documents_tracks_are_not_the_next_ones():
    swapped = [Track(1, media.TO_CUSTOMER), Track(2, media.FROM_CUSTOMER)]
    body = b"".join(
        media.head("1", 0.0, 0.0, tracks) + media.block(1, 0, b"\0\0") + media.tail("c", "1", 0)
        for tracks in (media.TRACKS, swapped)
    )
    assert [e.role for e in FragmentReader().feed(body) if isinstance(e, Block)] == ["customer", "agent"]


def test_an_error_in_the_stream_is_told():
    body = media.head("1", 0.0, 0.0) + media.failure("INTERNAL_ERROR", 5000)
    assert FragmentReader().feed(body)[-1] == StreamFailed("INTERNAL_ERROR", 5000)


@pytest.mark.parametrize("payload", [b"", b"\x81\0", b"\x81\0\0\x02ab", b"\x81\0\0\0abc", b"\x10\0\0\0\0\0ab"])
def test_a_block_that_is_none_is_refused(payload):
    with pytest.raises(BadAudio):
        FragmentReader().feed(media.head("1", 0.0, 0.0) + media.element(0xA3, payload))


def test_a_fragment_that_broke_off_is_not_whole():
    body = media.head("1", 0.0, 0.0) + media.block(1, 0, b"\0\0") + media.head("2", 0.0, 0.0)
    assert not any(isinstance(event, FragmentEnded) for event in FragmentReader().feed(body))
