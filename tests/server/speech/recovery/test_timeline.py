from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.speech.contract import Covered, EndOfSpeech, Final, Interim, SpeechEvent, SpeechGap, SpeechStarted
from server.speech.recovery.gaps import Gaps
from server.speech.recovery.timeline import Timeline
from server.speech.recovery.watchdog import StallWatch
from server.wire.utterance import Word

SAID = [
    SpeechStarted(500),
    Interim(500, 900, "my"),
    Interim(500, 1_300, "my oil"),
    Final(500, 1_800, "my oil light"),
    EndOfSpeech(1_800, 2_000),
    Covered(3_000),
    SpeechStarted(3_200),
    Interim(3_200, 3_600, "is"),
    Final(3_200, 4_000, "is on"),
    EndOfSpeech(4_000, 4_200),
]


@given(st.integers(0, len(SAID)))
def test_a_replay_says_nothing_twice_and_leaves_nothing_out(lost_after: int) -> None:
    """A stream is lost after any event; the next one begins at what was settled and says the rest again."""
    timeline = Timeline(0)
    told = [event for event in SAID[:lost_after] if timeline.take(event)]
    from_ms = timeline.settled_ms
    again = [event for event in SAID if not isinstance(event, Final) or event.end_ms > from_ms]
    told += [kept for event in again if (kept := timeline.take(event)) is not None]
    assert [event for event in told if isinstance(event, Final)] == [e for e in SAID if isinstance(e, Final)]
    interims = [event.end_ms for event in told if isinstance(event, Interim)]
    assert interims == sorted(interims)
    assert len([event for event in told if isinstance(event, EndOfSpeech)]) == 2
    assert timeline.settled_ms == 4_200


def test_a_final_across_the_edge_keeps_its_new_words() -> None:
    words = (Word("my", 500, 800), Word("oil", 900, 1_200), Word("light", 1_300, 1_800))
    timeline = Timeline(0)
    timeline.take(Covered(1_000))
    assert timeline.take(Final(500, 1_800, "my oil light", words)) == Final(1_000, 1_800, "oil light", words[1:])
    assert timeline.take(Final(500, 1_800, "my oil light", words)) is None


@pytest.mark.parametrize(("covered_ms", "passes"), [(900, True), (1_500, False)])
def test_without_word_times_most_of_it_decides(covered_ms: int, passes: bool) -> None:
    timeline = Timeline(0)
    timeline.take(Covered(covered_ms))
    assert (timeline.take(Final(500, 1_800, "my oil light")) is not None) == passes


def test_coverage_goes_forward_and_gaps_pass() -> None:
    timeline = Timeline(0)
    gap: SpeechEvent = SpeechGap(0, 10, "decoder", "lost")
    assert [timeline.take(Covered(ms)) for ms in (100, 50, 200)] == [Covered(100), None, Covered(200)]
    assert timeline.take(gap) is gap
    assert timeline.take(EndOfSpeech(150, 300)) == EndOfSpeech(150, 300)
    assert timeline.take(EndOfSpeech(150, 400)) == Covered(400)


def test_gaps_from_open_to_mended() -> None:
    gaps = Gaps()
    assert gaps.open(1_000, "dropped") == [SpeechGap(1_000, None, "dropped", "open")]
    assert gaps.open(1_500, "dropped") == []
    assert gaps.includes(9_000)
    assert gaps.mended(9_000) == []
    assert gaps.close(5_000) == [SpeechGap(1_000, 5_000, "dropped", "closed")]
    assert not gaps.includes(5_000)
    assert gaps.mended(4_999) == []
    assert gaps.mended(5_000) == [SpeechGap(1_000, 5_000, "dropped", "backfilled")]
    assert gaps.mended(5_000) == []


def test_a_part_that_is_lost_is_told_by_itself() -> None:
    gaps = Gaps()
    gaps.open(1_000, "dropped")
    gaps.close(5_000)
    assert gaps.lost(1_000, 2_000) == [SpeechGap(1_000, 2_000, "dropped", "lost")]
    assert gaps.mended(5_000) == [SpeechGap(2_000, 5_000, "dropped", "backfilled")]
    assert gaps.lost(6_000, 7_000) == [SpeechGap(6_000, 7_000, "audio_lost", "lost")]
    assert gaps.lost(7_000, 7_000) == []


LOUD = np.random.default_rng(1).integers(-3_000, 3_000, 800).astype(np.int16).tobytes()
QUIET = np.random.default_rng(1).integers(-20, 20, 800).astype(np.int16).tobytes()


def test_speech_without_an_answer_is_a_stall() -> None:
    watch = StallWatch(8_000, 1.0, 0.0)
    assert [watch.sent(LOUD, now_s / 10) for now_s in range(12)] == [False] * 10 + [True] * 2


def test_silence_and_bursts_are_none() -> None:
    watch = StallWatch(8_000, 1.0, 0.0)
    assert not any(watch.sent(QUIET, now_s / 10) for now_s in range(100))
    assert not any(watch.sent(LOUD, 10.0) for _ in range(100))
    watch.received()
    assert not watch.sent(LOUD, 20.0)
