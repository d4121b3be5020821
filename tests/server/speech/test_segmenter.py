from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from server.speech.segmenter import (
    FRAME_MS,
    Close,
    Decision,
    Decode,
    EndOfTurn,
    Onset,
    Resumed,
    Segmenter,
    SegmenterSettings,
)
from tests.examples import examples

SETTINGS = SegmenterSettings(soft_cap_ms=3_000, hard_cap_ms=5_000)


def hear(segmenter: Segmenter, probability: float, length_ms: int) -> list[Decision]:
    return [d for _ in range(length_ms // FRAME_MS) for d in segmenter.push(probability)]


def of_type(decisions: list[Decision], kind: type) -> list:
    return [d for d in decisions if isinstance(d, kind)]


def test_one_utterance_has_onset_interims_speculation_close_and_end() -> None:
    segmenter = Segmenter(SETTINGS)
    decisions = hear(segmenter, 0.0, 640) + hear(segmenter, 0.9, 1_280) + hear(segmenter, 0.0, 640)

    assert of_type(decisions, Onset) == [Onset(0, 640, 440)]
    decodes = of_type(decisions, Decode)
    assert [d.purpose for d in decodes] == ["interim", "interim", "interim", "interim", "speculative"]
    assert decodes[0].to_ms - 640 == SETTINGS.first_interim_ms
    assert decodes[-1] == Decode(0, "speculative", 440, 1_920 + 64, 640, 1_920)
    assert decisions[-2:] == [Close(0), EndOfTurn(0, 1_920)]


def test_the_end_comes_after_the_endpoint_and_not_before() -> None:
    segmenter = Segmenter(SETTINGS)
    hear(segmenter, 0.9, 640)
    silence_ms = 0
    while not of_type(segmenter.push(0.0), Close):
        silence_ms += FRAME_MS
    assert silence_ms + FRAME_MS == SETTINGS.endpoint_ms


def test_a_click_is_no_speech() -> None:
    segmenter = Segmenter(SETTINGS)
    assert hear(segmenter, 0.9, 64) + hear(segmenter, 0.0, 640) == []


def test_hysteresis_keeps_soft_syllables() -> None:
    segmenter = Segmenter(SETTINGS)
    decisions = hear(segmenter, 0.9, 320) + hear(segmenter, 0.4, 960)
    assert not of_type(decisions, Close)
    assert not of_type(hear(Segmenter(SETTINGS), 0.4, 960), Onset)


def test_a_short_pause_takes_the_speculation_back() -> None:
    segmenter = Segmenter(SETTINGS)
    decisions = hear(segmenter, 0.9, 640) + hear(segmenter, 0.0, 160) + hear(segmenter, 0.9, 32)
    assert of_type(decisions, Resumed) == [Resumed(0)]
    assert not of_type(decisions, Close)
    decisions = hear(segmenter, 0.0, 224)
    assert [d.purpose for d in of_type(decisions, Decode)] == ["speculative"]
    assert of_type(decisions, Close) == [Close(0)]


def test_a_long_segment_is_closed_at_a_short_pause_and_the_turn_ends_later() -> None:
    segmenter = Segmenter(SETTINGS)
    decisions = hear(segmenter, 0.9, 3_200) + hear(segmenter, 0.0, 96)
    assert decisions[-2:] == [Decode(0, "speculative", 0, 3_264, 0, 3_200), Close(0)]
    assert hear(segmenter, 0.0, 128) == [EndOfTurn(0, 3_200)]
    assert hear(segmenter, 0.0, 1_024) == []


def test_a_short_pause_in_a_long_turn_does_not_end_it() -> None:
    segmenter = Segmenter(SETTINGS)
    decisions = hear(segmenter, 0.9, 3_200) + hear(segmenter, 0.0, 96) + hear(segmenter, 0.9, 640)
    assert [o.segment for o in of_type(decisions, Onset)] == [0, 1]
    assert not of_type(decisions, EndOfTurn)
    assert of_type(decisions, Onset)[1].from_ms >= of_type(decisions, Decode)[-3].from_ms


def test_endless_speech_is_cut_where_the_voice_is_weakest() -> None:
    segmenter = Segmenter(SETTINGS)
    decisions = hear(segmenter, 0.9, 4_480) + hear(segmenter, 0.5, 32) + hear(segmenter, 0.9, 1_600)
    first, second = of_type(decisions, Onset)
    (final,) = [d for d in of_type(decisions, Decode) if d.purpose == "final"]
    assert (final.segment, final.to_ms) == (0, 4_512)
    assert second == Onset(1, 4_512, 4_512)
    assert first.segment == 0


def test_finalize_closes_what_is_open_and_only_that() -> None:
    segmenter = Segmenter(SETTINGS)
    assert segmenter.finalize() == []
    hear(segmenter, 0.9, 640)
    decisions = segmenter.finalize()
    assert [type(d) for d in decisions] == [Decode, Close, EndOfTurn]
    assert segmenter.finalize() == []


def test_finalize_in_a_pause_uses_the_speculation() -> None:
    segmenter = Segmenter(SETTINGS)
    hear(segmenter, 0.9, 640)
    hear(segmenter, 0.0, 128)
    assert segmenter.finalize() == [Close(0), EndOfTurn(0, 640)]


def test_silence_settles_all_but_the_pre_roll() -> None:
    segmenter = Segmenter(SETTINGS)
    hear(segmenter, 0.0, 64_000)
    assert segmenter.settled_ms == 64_000 - SETTINGS.pre_roll_ms


runs = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.95]), st.integers(1, 60)), max_size=30)


@given(runs, st.sets(st.integers(0, 400), max_size=3))
@settings(max_examples=examples(300), deadline=None)
def test_promises_hold_for_any_speech(runs: list[tuple[float, int]], finalize_at: set[int]) -> None:
    segmenter = Segmenter(SETTINGS)
    decisions: list[Decision] = []
    settled_ms = 0
    num_frames = 0
    for probability, length in runs:
        for _ in range(length):
            new = segmenter.push(probability)
            if num_frames in finalize_at:
                new = [*new, *segmenter.finalize()]
            num_frames += 1
            for decision in new:
                if isinstance(decision, Decode):
                    assert decision.from_ms >= settled_ms, "settled audio is asked for"
            assert segmenter.settled_ms >= settled_ms, "settled time runs backwards"
            settled_ms = segmenter.settled_ms
            assert segmenter.now_ms - settled_ms <= SETTINGS.hard_cap_ms + SETTINGS.pre_roll_ms + FRAME_MS
            decisions += new
    decisions += segmenter.finalize()

    onsets = [d.segment for d in of_type(decisions, Onset)]
    assert onsets == list(range(len(onsets))), "segments are numbered in order"
    assert [d.segment for d in of_type(decisions, Close)] == onsets, "each segment is closed exactly once, in order"

    wanted: dict[int, Decode] = {}
    closed_to_ms = 0
    for decision in decisions:
        match decision:
            case Decode():
                assert decision.from_ms < decision.to_ms <= segmenter.now_ms
                assert decision.from_ms <= decision.start_ms <= decision.end_ms <= decision.to_ms
                longest_ms = SETTINGS.hard_cap_ms + SETTINGS.speculate_ms + FRAME_MS
                assert decision.to_ms - decision.from_ms <= longest_ms
                assert decision.from_ms >= closed_to_ms, "audio of a closed segment is decoded again"
                if decision.purpose != "interim":
                    wanted[decision.segment] = decision
            case Resumed(segment):
                del wanted[segment]
            case Close(segment):
                assert segment in wanted, "a segment is closed without a decode for its final"
                closed_to_ms = wanted[segment].to_ms
            case EndOfTurn(segment, _):
                assert segment in wanted
    ended = [d.segment for d in of_type(decisions, EndOfTurn)]
    assert ended == sorted(set(ended))
    if onsets:
        assert ended[-1] == onsets[-1], "the last turn ends"


@given(runs)
@settings(max_examples=examples(100), deadline=None)
def test_voiced_time_is_always_decoded_at_last(runs: list[tuple[float, int]]) -> None:
    segmenter = Segmenter(SETTINGS)
    probabilities = [probability for probability, length in runs for _ in range(length)]
    decisions = [d for p in probabilities for d in segmenter.push(p)] + segmenter.finalize()
    spans: dict[int, tuple[int, int]] = {}
    for decision in decisions:
        if isinstance(decision, Decode) and decision.purpose != "interim":
            spans[decision.segment] = (decision.from_ms, decision.to_ms)
    covered = [False] * len(probabilities)
    for start, end in spans.values():
        for index in range(-(-start // FRAME_MS), end // FRAME_MS):
            covered[index] = True
    voiced_in_a_row = 0
    for index, probability in enumerate(probabilities):
        voiced_in_a_row = voiced_in_a_row + 1 if probability >= SETTINGS.onset_probability else 0
        if voiced_in_a_row * FRAME_MS >= SETTINGS.onset_ms:
            assert covered[index], "speech is in no final"
