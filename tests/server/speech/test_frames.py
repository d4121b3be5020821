from __future__ import annotations

import struct

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from server.speech.contract import Covered, EndOfSpeech, Final, Interim, SpeechEvent, SpeechGap, SpeechStarted
from server.speech.frames import Audio, Command, Event, FrameReader, Open, Reply, encode, event_frame, event_of
from server.wire.utterance import Word

EVENTS: list[SpeechEvent] = [
    SpeechStarted(120),
    Interim(120, 480, "the warning", is_stable=True),
    Final(120, 900, "The warning light.", (Word("The", 120, 240, 0.9),), 0.93),
    EndOfSpeech(900, 1_140),
    SpeechGap(1_200, None, "recogniser_failed", "open"),
    Covered(1_300),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_as_it_was(event: SpeechEvent) -> None:
    (body,) = FrameReader().feed(encode(event_frame(7, event)))
    frame = msgspec.msgpack.decode(body, type=Reply)
    assert isinstance(frame, Event)
    assert (frame.stream, event_of(frame)) == (7, event)


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 50))
def test_frames_survive_any_cutting_of_the_stream(payloads: list[bytes], size: int) -> None:
    data = b"".join(encode(Audio(3, payload)) for payload in payloads)
    reader = FrameReader()
    bodies = [body for start in range(0, len(data), size) for body in reader.feed(data[start : start + size])]
    frames = [msgspec.msgpack.decode(body, type=Command) for body in bodies]
    assert frames == [Audio(3, payload) for payload in payloads]


def test_commands_keep_their_types() -> None:
    (body,) = FrameReader().feed(encode(Open(1, 8_000, 500, "en")))
    assert msgspec.msgpack.decode(body, type=Command) == Open(1, 8_000, 500, "en")


def test_an_impossible_length_is_refused() -> None:
    with pytest.raises(ValueError, match="frame of"):
        list(FrameReader().feed(struct.pack("<I", 2**31)))
