import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.ingest.connect.contact_audio import MAX_HELD_BYTES, ContactAudio, Mark, Over, Passed
from server.ingest.connect.timeline import Placed
from server.simulators.connect import media
from server.wire.errors import BadAudio
from tests.examples import examples
from tests.server.ingest.connect.streams import FROM, TO, ZERO_MS, blocks, fragments, joined, pcm


def reading(contact_id="ours", mark=None, **options):
    return ContactAudio(contact_id, mark, **({"max_skew_ms": 2000} | options))


def placed_of(events):
    return [event for event in events if isinstance(event, Placed)]


def test_every_sample_of_the_contact_and_none_of_another():
    body = (
        fragments("before", 3, start_ms=-60_000)
        + fragments("ours", 20, first=3)
        + fragments("after", 2, first=23, start_ms=90_000)
    )
    events = reading().feed(body)
    placed = placed_of(events)
    assert joined(placed, "customer") == pcm(FROM, 0, 20 * 4 * 512)
    assert joined(placed, "agent") == pcm(TO, 0, 20 * 4 * 512)
    assert isinstance(events[-1], Over)


@pytest.mark.parametrize("is_tag_first", [False, True])
def test_audio_that_goes_on_leaves_at_once(is_tag_first):
    audio = reading()
    audio.feed(fragments("ours", 2, is_tag_first=is_tag_first))
    begun = media.head("9", ZERO_MS + 512, 0.0, contact_id="ours" if is_tag_first else None)
    assert placed_of(audio.feed(begun + media.block(1, 0, pcm(FROM, 4096)))) == [
        Placed("customer", 4096, pcm(FROM, 4096))
    ]


def test_the_first_fragment_waits_for_its_name_unless_connect_named_it():
    begun = media.head("1000", ZERO_MS, ZERO_MS) + media.block(1, 0, pcm(FROM, 0))
    assert placed_of(reading().feed(begun)) == []
    assert len(placed_of(reading(start_number="1000").feed(begun))) == 1


def test_a_stream_that_another_contact_uses_now_gives_none_of_its_words():
    audio = reading()
    audio.feed(fragments("ours", 2))
    events = audio.feed(fragments("theirs", 1, first=2, start_ms=30_000))
    assert placed_of(events) == []
    assert events == [Over()]


@pytest.mark.parametrize(("track", "role"), [(FROM, "customer"), (TO, "agent")])
def test_either_track_may_be_missing(track, role):
    placed = placed_of(reading().feed(fragments("ours", 20, tracks=(track,))))
    assert {p.role for p in placed} == {role}
    assert joined(placed, role) == pcm(track, 0, 20 * 4 * 512)


def test_a_side_that_starts_late_starts_late():
    body = fragments("ours", 4, tracks=(FROM,)) + fragments("ours", 4, first=4, start_ms=1024)
    placed = placed_of(reading().feed(body))
    assert min(p.position for p in placed if p.role == "agent") == 1024 * 8
    assert joined(placed, "agent") == pcm(TO, 1024 * 8, 4 * 4 * 512)


def test_skew_costs_neither_audio_nor_time():
    """The agent's blocks come a second after the customer's of the same time."""
    late = 16
    ordered = []
    for index in range(60):
        ordered.append((FROM, index * 64, pcm(FROM, index * 512)))
        if index >= late:
            ordered.append((TO, (index - late) * 64, pcm(TO, (index - late) * 512)))
    placed = placed_of(reading(start_number="1").feed(media.document("1", ZERO_MS, ordered, "ours")))
    assert joined(placed, "customer") == pcm(FROM, 0, 60 * 512)
    assert joined(placed, "agent") == pcm(TO, 0, (60 - late) * 512)
    assert not any(p.is_filled for p in placed)


def test_a_side_that_falls_silent_for_the_stream_is_filled_up():
    body = fragments("ours", 4) + fragments("ours", 20, first=4, start_ms=1024, tracks=(FROM,))
    placed = placed_of(reading(max_skew_ms=500).feed(body))
    agent = joined(placed, "agent")
    assert agent[: 1024 * 16] == pcm(TO, 0, 1024 * 8)
    assert not any(agent[1024 * 16 :])
    assert len(joined(placed, "customer")) - len(agent) == 500 * 16


def test_audio_that_comes_after_its_place_was_filled_is_counted_and_the_rest_kept():
    audio = reading(max_skew_ms=100)
    audio.feed(fragments("ours", 1))
    audio.feed(fragments("ours", 2, first=1, start_ms=256, tracks=(FROM,)))  # the agent is filled up to 668 ms
    placed = placed_of(audio.feed(fragments("ours", 3, first=3, start_ms=256, tracks=(TO,))))
    # What is filled by less than half a block still counts as in time.
    assert audio.num_late == (640 - 256) * 8
    assert joined(placed, "agent") == pcm(TO, 640 * 8, (1024 - 640) * 8)


def test_a_hole_in_the_stream_is_silence_on_a_linear_clock():
    body = fragments("ours", 2) + fragments("ours", 2, first=2, start_ms=5_000)
    placed = placed_of(reading().feed(body))
    customer = joined(placed, "customer")
    assert len(customer) == (5_000 + 512) * 16
    assert customer[5_000 * 16 :] == pcm(FROM, 5_000 * 8, 512 * 8)
    assert not any(customer[512 * 16 : 5_000 * 16])


@given(st.lists(st.integers(-15, 15), min_size=20, max_size=20))
def test_inexact_stamps_neither_insert_nor_lose_a_sample(jitter_ms):
    inexact = [(FROM, max(0, index * 64 + jitter), pcm(FROM, index * 512)) for index, jitter in enumerate(jitter_ms)]
    placed = placed_of(reading(start_number="1").feed(media.document("1", ZERO_MS, inexact, "ours")))
    assert joined(placed, "customer") == pcm(FROM, 0, 20 * 512)[: len(joined(placed, "customer"))]
    assert len(joined(placed, "customer")) == 20 * 1024


@settings(max_examples=examples(40))
@given(st.integers(0, 19), st.integers(1, 12_000), st.booleans())
def test_reading_on_from_any_mark_gives_the_same_again(index, cut, is_skewed):
    """So another process that has nothing but the mark goes on without losing or moving a sample."""
    documents = [
        fragments("ours", 1, first=n, start_ms=n * 256, tracks=(FROM,) if is_skewed and n >= 10 else (FROM, TO))
        for n in range(20)
    ]
    whole = reading(max_skew_ms=300).feed(b"".join(documents))
    places = [place for place, event in enumerate(whole) if isinstance(event, Passed)]
    mark = msgspec.json.decode(msgspec.json.encode(whole[places[index]].mark), type=Mark)
    assert mark.token == str(1000 + index)
    again, rest = reading(mark=mark, max_skew_ms=300), b"".join(documents[index + 1 :])
    found = placed_of(again.feed(rest[:cut]) + again.feed(rest[cut:]))
    assert found == placed_of(whole[places[index] + 1 :])


def test_a_fragment_without_end_that_says_not_whose_it_is_is_refused():
    audio = reading()
    audio.feed(media.head("1", ZERO_MS, ZERO_MS))
    endless = b"".join(media.block(1, 0, samples) for _, _, samples in blocks(0, MAX_HELD_BYTES // 1024 + 1, (FROM,)))
    with pytest.raises(BadAudio):
        audio.feed(endless)
