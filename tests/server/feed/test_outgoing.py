import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from server.feed.outgoing import Outgoing, Packet, answer_packets
from server.log.contract import Entry, Position, Recovery
from server.wire.clock import Stamps
from server.wire.codec import json_encoder
from server.wire.feed import MAX_FRAME_OUT_BYTES
from server.wire.publication import Publication, Transcript, kind_of
from server.wire.utterance import Word


def entry(offset: int, text: str = "hello", words: tuple[Word, ...] = ()) -> Entry:
    payload = Transcript(
        utterance_id=f"u{offset}",
        revision=1,
        speaker="agent",
        start_ms=0,
        end_ms=1,
        text=text,
        is_final=True,
        words=words,
    )
    publication = Publication(ch="call:1", ep="e", off=offset, kind=kind_of(payload), t=Stamps(t0=1.25), d=payload)
    return Entry(Position("e", offset), "transcript", f"u{offset}", False, json_encoder.encode(publication), 1.0)


def test_all_readers_of_a_kind_share_the_same_bytes() -> None:
    outgoing = Outgoing([entry(1), entry(2)])
    assert outgoing.packets(False) is outgoing.packets(False)
    assert outgoing.packets(False)[0].frame is outgoing.packets(False)[0].frame
    assert outgoing.packets(True) is outgoing.packets(True)
    assert [packet.body for packet in outgoing.packets(False)] == [entry.body for entry in outgoing.entries]
    assert outgoing.frames(True) is outgoing.frames(True)


@pytest.mark.parametrize("is_binary", [True, False])
def test_what_was_appended_together_is_the_frames_of_each(is_binary: bool) -> None:
    outgoing = Outgoing([entry(1), entry(2, "x" * 70_000), entry(3, "x" * 300_000)])
    assert outgoing.frames(is_binary) == b"".join([packet.frame for packet in outgoing.packets(is_binary)])


def test_msgpack_says_the_same() -> None:
    outgoing = Outgoing([entry(1, "日本 \U0001f600", (Word("a", 0, 1, 0.5),))])
    ((binary,), (text,)) = outgoing.packets(True), outgoing.packets(False)
    assert msgspec.msgpack.decode(binary.body) == json.loads(text.text)


def test_a_frame_is_a_whole_unmasked_websocket_frame() -> None:
    ((text,), (binary,)) = Outgoing([entry(1)]).packets(False), Outgoing([entry(1)]).packets(True)
    assert text.frame[0] == 0x81
    assert binary.frame[0] == 0x82
    assert text.frame[1] == 126
    assert text.frame[4:] == text.body
    assert int.from_bytes(text.frame[2:4], "big") == len(text.body)


def test_what_is_too_large_first_loses_its_word_times() -> None:
    words = tuple(Word(f"word{number}", number, number + 1) for number in range(10_000))
    large = entry(1, "x" * 60_000, words)
    assert len(large.body) > MAX_FRAME_OUT_BYTES
    publication = json.loads(Outgoing([large]).packets(False)[0].body)
    assert "words" not in publication["d"]
    assert publication["d"]["text"] == "x" * 60_000


def test_what_is_still_too_large_is_told_and_keeps_its_place() -> None:
    publication = json.loads(Outgoing([entry(7, "x" * 300_000)]).packets(False)[0].body)
    assert (publication["off"], publication["kind"], publication["ep"]) == (7, "notice", "e")
    assert publication["d"]["code"] == "publication_too_large"


@given(
    st.lists(st.integers(1, 120_000), max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_an_answer_owes_nothing(sizes: list[int], is_recovered: bool, is_binary: bool) -> None:
    entries = tuple(entry(offset, "x" * size) for offset, size in enumerate(sizes, 4))
    position = Position("e", 3 + len(entries))
    recovery = Recovery(position, is_recovered, () if is_recovered else entries, entries if is_recovered else ())
    after = Position("e", 3) if is_recovered else None
    answer, *rest = answer_packets("call:1", after, recovery, is_binary)
    assert all(len(packet.body) <= MAX_FRAME_OUT_BYTES for packet in (answer, *rest))
    decode = msgspec.msgpack.decode if is_binary else msgspec.json.decode
    told = decode(answer.body)
    head = told["tail"] if is_recovered else told["snapshot"]
    offsets = [publication["off"] for publication in [*head, *(decode(packet.body) for packet in rest)]]
    assert offsets == list(range(4, 4 + len(entries)))
    assert told.get("num_more", 0) == len(rest)
    if rest:
        assert told["off"] == (head[-1]["off"] if head else 3 if is_recovered else 0)
    else:
        assert told["off"] == position.offset


@pytest.mark.parametrize("num_bytes", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
@pytest.mark.parametrize("is_binary", [True, False])
def test_a_frame_of_any_length_is_what_the_library_would_send(num_bytes: int, is_binary: bool) -> None:
    opcode = Opcode.BINARY if is_binary else Opcode.TEXT
    packet = Packet(b"x" * num_bytes, is_binary=is_binary)
    assert packet.frame == Frame(opcode, packet.body).serialize(mask=False)
