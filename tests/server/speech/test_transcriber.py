"""The worker's logic with a detector that takes loud for voiced and a decoder that is this file."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from server.speech.contract import (
    Covered,
    EndOfSpeech,
    Final,
    Interim,
    SpeechEvent,
    SpeechGap,
    SpeechStarted,
)
from server.speech.decode_queue import Job
from server.speech.decoder import Decoded
from server.speech.settings import EmbeddedSettings
from server.speech.silero import FloatArray
from server.speech.transcriber import Transcriber

RATE_HZ = 8_000


def pcm(is_voiced: bool, length_ms: int) -> bytes:
    level = 8_000 if is_voiced else 0
    return np.full(RATE_HZ * length_ms // 1000, level, np.int16).tobytes()


def by_loudness(rate_hz: int) -> Callable[[FloatArray], float]:
    return lambda frame: float(np.abs(frame).max() > 0.01)


class Bench:
    """A transcriber with all its output, and a decoder that answers when told to."""

    def __init__(self, **changes: float) -> None:
        self.events: dict[int, list[SpeechEvent]] = {}
        self.ended: list[int] = []
        self.transcriber = Transcriber(
            EmbeddedSettings(**changes),  # type: ignore[arg-type]
            by_loudness,
            lambda stream, event: self.events.setdefault(stream, []).append(event),
            self.ended.append,
        )
        self.transcriber.open(1, RATE_HZ, 0, "en")

    def hear(self, is_voiced: bool, length_ms: int, stream: int = 1) -> None:
        self.transcriber.audio(stream, pcm(is_voiced, length_ms))

    def pop(self) -> Job:
        job = self.transcriber.queue.pop()
        assert job is not None
        return job

    def decode_all(self, text: str = "yes indeed", confidence: float = 0.9) -> list[Job]:
        jobs = []
        while (job := self.transcriber.queue.pop()) is not None:
            self.transcriber.take(job)
            self.transcriber.finish(job, Decoded(text, (5, 6), confidence))
            jobs.append(job)
        return jobs

    def kinds(self, stream: int = 1) -> list[str]:
        return [type(event).__name__ for event in self.events.get(stream, [])]

    def of_type(self, kind: type, stream: int = 1) -> list:
        return [event for event in self.events.get(stream, []) if isinstance(event, kind)]


def test_the_final_waits_ready_for_the_end_of_speech() -> None:
    bench = Bench()
    bench.hear(True, 640)
    bench.decode_all()
    bench.hear(False, 128)
    (job,) = bench.decode_all()
    assert job.decode.purpose == "speculative"
    assert bench.of_type(Interim)[-1].is_stable
    bench.hear(False, 96)
    assert bench.kinds() == ["SpeechStarted", "Interim", "Interim", "Final", "EndOfSpeech", "Covered"]
    final = bench.of_type(Final)[0]
    assert (final.start_ms, final.end_ms, final.text) == (0, 640, "yes indeed")
    assert [word.text for word in final.words] == ["yes", "indeed"]


def test_a_late_speculation_becomes_the_final_when_it_is_done() -> None:
    bench = Bench()
    bench.hear(True, 640)
    bench.decode_all()
    bench.hear(False, 128)
    running = bench.pop()
    bench.hear(False, 512)
    assert "Final" not in bench.kinds()
    bench.transcriber.finish(running, Decoded("yes", (5,), 0.9))
    assert bench.kinds()[-3:] == ["Final", "EndOfSpeech", "Covered"]


def test_a_waiting_speculation_is_promoted_at_the_endpoint() -> None:
    bench = Bench()
    bench.hear(True, 640)
    bench.decode_all()
    bench.hear(False, 512)
    assert bench.pop().decode.purpose == "final"


def test_a_speculation_that_speech_overtook_is_no_final() -> None:
    bench = Bench()
    bench.hear(True, 640)
    bench.decode_all("one")
    bench.hear(False, 128)
    running = bench.pop()
    bench.hear(True, 640)
    bench.transcriber.finish(running, Decoded("one two", (5,), 0.9))
    bench.decode_all("one two three")
    bench.hear(False, 512)
    bench.decode_all("one two three four")
    assert [final.text for final in bench.of_type(Final)] == ["one two three four"]
    assert len(bench.of_type(EndOfSpeech)) == 1


def test_an_interrupted_speculation_is_queued_again_and_an_interim_is_not() -> None:
    bench = Bench()
    bench.hear(True, 640)
    bench.transcriber.put_back(bench.pop())
    assert len(bench.transcriber.queue) == 0
    bench.hear(False, 128)
    running = bench.pop()
    bench.hear(False, 512)
    bench.transcriber.put_back(running)
    assert bench.pop().decode.purpose == "final"


def test_an_unchanged_interim_is_told_once_more_when_it_settles_and_never_again() -> None:
    bench = Bench()
    for _ in range(4):
        bench.hear(True, 320)
        bench.decode_all()
    assert [interim.is_stable for interim in bench.of_type(Interim)] == [False, True]


def test_noise_that_passed_the_detector_gives_an_empty_final_and_no_interim() -> None:
    bench = Bench()
    bench.hear(True, 640)
    bench.hear(False, 512)
    bench.decode_all("You", confidence=0.1)
    assert not bench.of_type(Interim)
    assert [final.text for final in bench.of_type(Final)] == [""]
    assert len(bench.of_type(EndOfSpeech)) == 1


def test_a_failed_decode_is_a_gap_and_the_stream_goes_on() -> None:
    bench = Bench()
    bench.hear(True, 640)
    bench.hear(False, 512)
    bench.transcriber.finish(bench.pop(), None)
    assert bench.of_type(SpeechGap) == [SpeechGap(0, 640, "recogniser_failed", "lost")]
    bench.hear(True, 640)
    bench.hear(False, 512)
    bench.decode_all()
    assert len(bench.of_type(Final)) == 1


def test_silence_is_covered_once_a_second_and_kept_by_nobody() -> None:
    bench = Bench()
    for _ in range(300):
        bench.hear(False, 200)
    assert bench.kinds() == ["Covered"] * len(bench.kinds())
    assert len(bench.kinds()) in range(50, 61)
    assert bench.of_type(Covered)[-1].covered_ms >= 58_000


def test_covered_never_passes_speech_that_is_pending() -> None:
    bench = Bench()
    bench.hear(False, 3_200)
    bench.hear(True, 640)
    bench.hear(False, 5_120)
    pending_ms = 3_200 - 200
    assert bench.of_type(Covered)[-1].covered_ms <= pending_ms
    bench.decode_all()
    assert bench.of_type(Covered)[-1].covered_ms > 8_000


def test_times_start_where_the_call_says() -> None:
    bench = Bench()
    bench.transcriber.open(2, RATE_HZ, 60_000, "en")
    bench.hear(False, 640, stream=2)
    bench.hear(True, 640, stream=2)
    bench.hear(False, 512, stream=2)
    bench.decode_all()
    assert bench.of_type(SpeechStarted, 2) == [SpeechStarted(60_640)]
    final = bench.of_type(Final, 2)[0]
    assert (final.start_ms, final.end_ms) == (60_640, 61_280)
    assert (final.words[0].start_ms, final.words[-1].end_ms) == (60_640, 61_280)
    assert bench.of_type(Covered, 2)[-1].covered_ms > 61_280


def test_close_gives_what_is_due_and_then_ends() -> None:
    bench = Bench()
    bench.hear(True, 650)
    bench.transcriber.close(1)
    assert bench.ended == []
    bench.decode_all()
    assert bench.kinds()[-3:] == ["Final", "EndOfSpeech", "Covered"]
    assert bench.ended == [1]
    bench.transcriber.close(1)
    bench.hear(True, 640)
    assert bench.ended == [1]


def test_close_of_a_silent_stream_ends_at_once() -> None:
    bench = Bench()
    bench.transcriber.close(1)
    assert bench.ended == [1]


def test_finalize_ends_the_turn_and_speech_goes_on_as_a_new_one() -> None:
    bench = Bench()
    bench.hear(True, 640)
    bench.transcriber.finalize(1)
    bench.hear(True, 640)
    bench.transcriber.finalize(1)
    bench.decode_all()
    finals = bench.of_type(Final)
    assert [(final.start_ms, final.end_ms) for final in finals] == [(0, 640), (640, 1_280)]


def test_an_abandoned_stream_leaves_nothing() -> None:
    bench = Bench()
    bench.hear(True, 640)
    running = bench.pop()
    bench.hear(False, 512)
    bench.transcriber.abandon(1)
    bench.transcriber.finish(running, Decoded("yes", (5,), 0.9))
    assert len(bench.transcriber.queue) == 0
    assert bench.kinds() == ["SpeechStarted"]


def test_what_waits_for_a_final_counts_as_backlog() -> None:
    bench = Bench()
    bench.hear(False, 640)
    bench.hear(True, 640)
    bench.hear(False, 6_400)
    assert bench.transcriber.resolved_ms(1) == 640 - 200
    bench.decode_all()
    assert bench.transcriber.resolved_ms(1) == 640 + 640 + 6_400


script = st.lists(
    st.one_of(
        st.tuples(st.just("voice"), st.integers(20, 4_000)),
        st.tuples(st.just("silence"), st.integers(20, 1_000)),
        st.tuples(st.just("decode"), st.integers(0, 1)),
        st.tuples(st.just("yield"), st.integers(0, 1)),
        st.tuples(st.just("finalize"), st.just(0)),
    ),
    max_size=30,
)


@given(script)
@settings(max_examples=150, deadline=None)
def test_any_interleaving_of_audio_and_decodes_keeps_the_order(script: list[tuple[str, int]]) -> None:
    bench = Bench()
    running: Job | None = None
    for step, amount in script:
        match step:
            case "voice" | "silence":
                bench.hear(step == "voice", amount)
            case "finalize":
                bench.transcriber.finalize(1)
            case _:
                if running is not None:
                    if step == "yield":
                        bench.transcriber.put_back(running)
                    else:
                        decoded = Decoded("some words", (5, 6), 0.9) if amount else None
                        bench.transcriber.finish(running, decoded)
                running = bench.transcriber.queue.pop()
                if running is not None:
                    bench.transcriber.take(running)
    if running is not None:
        bench.transcriber.finish(running, Decoded("some words", (5, 6), 0.9))
    bench.transcriber.close(1)
    bench.decode_all()

    assert bench.ended == [1]
    events = bench.events.get(1, [])
    starts = [event.at_ms for event in events if isinstance(event, SpeechStarted)]
    results = [event for event in events if isinstance(event, Final | SpeechGap)]
    assert len(starts) == len(results), "each start has one final or gap"
    now_ms = 0
    is_open = False
    for event in events:
        match event:
            case SpeechStarted(at_ms):
                assert not is_open
                assert at_ms >= now_ms
                is_open = True
            case Interim(start_ms, end_ms):
                assert is_open
                assert start_ms <= end_ms
            case Final(start_ms, end_ms):
                assert is_open
                assert now_ms <= start_ms <= end_ms
                is_open, now_ms = False, end_ms
            case SpeechGap(from_ms, to_ms):
                assert to_ms is not None
                is_open, now_ms = False, max(from_ms, to_ms)
            case EndOfSpeech(at_ms, covered_ms):
                assert not is_open
                assert at_ms <= covered_ms
    covered = [event.covered_ms for event in events if isinstance(event, Covered)]
    assert covered == sorted(covered)
