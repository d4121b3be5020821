"""Every fact of the vendor's protocol that the adapter relies on. Source: PROTOCOLS b1."""

from __future__ import annotations

import msgspec
import pytest

from server.speech.contract import Covered, EndOfSpeech, Final, Interim, SpeechEvent, SpeechStarted
from server.speech.deepgram.mapping import Mapping
from server.speech.deepgram.messages import decode
from server.wire.utterance import Word

BASE_MS = 60_000


def results(text: str, start: float, duration: float, **flags: object) -> dict[str, object]:
    step = duration / max(1, len(text.split()))
    words = [
        {
            "word": word.strip(".,").lower(),
            "punctuated_word": word,
            "confidence": 0.9,
            "start": round(start + n * step, 3),
            "end": round(start + (n + 1) * step, 3),
        }
        for n, word in enumerate(text.split())
    ]
    return {
        "type": "Results", "channel_index": [0, 1], "start": start, "duration": duration, "is_final": False,
        "speech_final": False, "from_finalize": False, "metadata": {"request_id": "r"},
        "channel": {"alternatives": [{"transcript": text, "confidence": 0.95, "words": words}]},
    } | flags  # fmt: skip


class Peer:
    def __init__(self, channel: int = 0) -> None:
        self.mapping = Mapping(BASE_MS, channel=channel)

    def says(self, *messages: dict[str, object]) -> list[SpeechEvent]:
        events: list[SpeechEvent] = []
        for message in messages:
            decoded = decode(msgspec.json.encode(message))
            if decoded is not None:
                events += self.mapping.take(decoded)
        return events


def test_an_utterance_on_the_calls_clock() -> None:
    events = Peer().says(
        {"type": "SpeechStarted", "channel": [0, 1], "timestamp": 1.0},
        results("My oil", 1.0, 0.8),
        results("My oil", 1.0, 1.0),
        results("My oil light.", 1.0, 1.2, is_final=True, speech_final=True),
    )
    words = (Word("My", 61_000, 61_400, 0.9), Word("oil", 61_400, 61_800, 0.9), Word("light.", 61_800, 62_200, 0.9))
    assert [type(event) for event in events] == [SpeechStarted, Interim, Interim, Final, Covered, EndOfSpeech]
    assert events[0] == SpeechStarted(61_000)
    assert isinstance(events[1], Interim)
    assert isinstance(events[2], Interim)
    assert (events[1].start_ms, events[1].end_ms, events[1].is_stable) == (61_000, 61_800, False)
    assert events[2].is_stable  # said twice in a row
    assert events[3:] == [
        Final(61_000, 62_200, "My oil light.", words, 0.95, "en"),
        Covered(62_200),
        EndOfSpeech(62_200, 62_200),
    ]


def test_several_finals_make_one_utterance() -> None:
    events = Peer().says(
        results("first part", 0, 3, is_final=True),
        results("second part", 3, 2, is_final=True, speech_final=True),
    )
    assert [event.text for event in events if isinstance(event, Final)] == ["first part", "second part"]
    assert [event for event in events if isinstance(event, EndOfSpeech)] == [EndOfSpeech(65_000, 65_000)]


def test_speech_final_implies_final() -> None:
    events = Peer().says(results("yes", 0, 1, speech_final=True))
    assert [type(event) for event in events] == [Final, Covered, EndOfSpeech]


def test_an_empty_final_covers_silence_and_is_no_utterance() -> None:
    assert Peer().says(results("", 0, 3.5, is_final=True)) == [Covered(63_500)]
    assert Peer().says(results("", 0, 3.5, is_final=True, from_finalize=True)) == [Covered(63_500)]
    assert Peer().says(results("", 0, 3.5, is_final=True, speech_final=True)) == [Covered(63_500)]


def test_an_empty_final_takes_back_what_was_shown() -> None:
    events = Peer().says(results("hm", 1, 1), results("", 1, 1.5, is_final=True))
    assert events[1:] == [Final(61_000, 62_500, "", (), 0.95, "en"), Covered(62_500)]


def test_utterance_end_closes_what_speech_final_did_not() -> None:
    peer = Peer()
    peer.says(results("a word", 0, 1, is_final=True))
    end = {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 1.0}
    assert peer.says(end) == [EndOfSpeech(61_000, 61_000)]
    assert peer.says(end) == []
    assert peer.says(end | {"last_word_end": -1}) == []


def test_an_utterance_ends_without_either() -> None:
    peer = Peer()
    peer.says(results("a word", 0, 1, is_final=True))
    assert peer.says(results("", 1, 1.4, is_final=True)) == [Covered(62_400)]
    assert peer.says(results("", 2.4, 0.2, is_final=True)) == [Covered(62_600), EndOfSpeech(61_000, 62_600)]


def test_a_bubble_begins_with_its_first_word_and_stays_there() -> None:
    late = results("late word", 0, 3.0)
    late["channel"]["alternatives"][0]["words"][0]["start"] = 1.5  # type: ignore[index]
    moved = results("late words here", 0, 3.4, is_final=True)
    events = Peer().says(late, moved)
    assert [event.start_ms for event in events if isinstance(event, Interim | Final)] == [61_500, 61_500]


def test_other_channels_are_not_ours() -> None:
    one, two = results("one", 0, 1, channel_index=[0, 2]), results("two", 0, 1, channel_index=[1, 2])
    assert [event.text for event in Peer(0).says(one, two) if isinstance(event, Interim)] == ["one"]
    assert [event.text for event in Peer(1).says(one, two) if isinstance(event, Interim)] == ["two"]
    assert Peer(0).says({"type": "SpeechStarted", "channel": [1, 2], "timestamp": 0}) == []
    assert Peer(0).says({"type": "UtteranceEnd", "channel": [1, 2], "last_word_end": 0}) == []


def test_unknown_types_and_fields_and_missing_options_are_no_fault() -> None:
    bare = {"type": "Results", "start": 0, "duration": 1, "is_final": True, "channel": {"alternatives": []}}
    assert Peer().says({"type": "Horoscope"}, {"type": "Metadata", "request_id": "r", "new": 1}) == []
    assert Peer().says(bare | {"entities": [], "what": None}) == [Covered(61_000)]


@pytest.mark.parametrize("frame", ["{", "[]", '{"type": 3}', '{"type": "Results"}', b"\x00\xff", '{"no": "type"}'])
def test_what_is_no_message_is_told_apart(frame: str | bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        decode(frame)
