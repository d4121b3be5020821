from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.speech.contract import Closed, Covered, EndOfSpeech, Final, Interim, SpeechEvent, SpeechGap, SpeechStarted
from server.transcript.assembler import MAX_OPEN, Assembler
from server.wire.errors import BadMessage
from server.wire.ids import ConversationId, Speaker, TenantId
from server.wire.ingest import UtteranceIn
from server.wire.utterance import Utterance, Word
from tests.examples import examples


def assembler(known: dict[str, tuple[int, bool]] | None = None) -> Assembler:
    return Assembler(TenantId("car_service"), ConversationId("c1"), known)


def said(*events: SpeechEvent, known: dict[str, tuple[int, bool]] | None = None) -> list[Utterance]:
    subject = assembler(known)
    return [utterance for event in events for utterance in subject.on_speech("customer", event, 0.0)]


def brief(utterances: list[Utterance]) -> list[tuple[str, int, str, bool]]:
    return [(u.utterance_id, u.revision, u.text, u.is_final) for u in utterances]


def test_interims_then_final_are_one_bubble() -> None:
    published = said(
        SpeechStarted(1000),
        Interim(1000, 1400, "my oil"),
        Interim(1000, 1900, "  my oil   light "),
        Final(1000, 2100, "My oil light is on.", (Word("My", 1000, 1100),), 0.9, "en-US"),
        EndOfSpeech(2100, 2300),
    )
    assert brief(published) == [
        ("customer-1000", 1, "my oil", False),
        ("customer-1000", 2, "my oil light", False),
        ("customer-1000", 3, "My oil light is on.", True),
    ]
    final = published[-1]
    assert (final.start_ms, final.end_ms, final.confidence, final.language) == (1000, 2100, 0.9, "en-US")
    assert final.words == (Word("My", 1000, 1100),)
    assert (final.tenant_id, final.conversation_id, final.speaker, final.origin) == (
        "car_service",
        "c1",
        "customer",
        "speech",
    )


def test_unchanged_interim_text_makes_no_revision() -> None:
    assert len(said(Interim(0, 400, "yes"), Interim(0, 800, " yes "), Interim(0, 900, "yes", is_stable=True))) == 1


@pytest.mark.parametrize("late", [Interim(0, 900, "other words"), Interim(0, 5000, "other"), Interim(100, 800, "x")])
def test_a_late_interim_never_overwrites_a_final(late: Interim) -> None:
    assert brief(said(Interim(0, 800, "yes"), Final(0, 900, "Yes."), late)) == [
        ("customer-0", 1, "yes", False),
        ("customer-0", 2, "Yes.", True),
    ]


def test_a_final_delivered_twice_is_said_once() -> None:
    assert len(said(Final(0, 900, "Yes."), Final(0, 900, "Yes."), Final(20, 900, "Yes!"))) == 1


def test_an_empty_final_removes_what_was_shown() -> None:
    assert brief(said(Interim(0, 800, "uh"), Final(0, 900, ""))) == [
        ("customer-0", 1, "uh", False),
        ("customer-0", 2, "", True),
    ]


def test_what_never_had_text_is_not_published_but_closed() -> None:
    assert said(Interim(0, 800, "  "), Final(0, 900, " "), Interim(0, 850, "late")) == []


def test_an_empty_interim_does_not_blank_the_screen() -> None:
    assert len(said(Interim(0, 800, "hello"), Interim(0, 900, ""))) == 1


def test_the_final_tells_where_it_ends_and_the_rest_is_a_new_bubble() -> None:
    published = said(
        Interim(0, 5000, "one two"), Final(0, 3000, "One."), Interim(3000, 5200, "two"), Final(3000, 5200, "Two.")
    )
    assert brief(published)[1:] == [
        ("customer-0", 2, "One.", True),
        ("customer-3000", 1, "two", False),
        ("customer-3000", 2, "Two.", True),
    ]
    assert published[1].end_ms == 3000


def test_padding_that_overlaps_the_last_final_is_new_speech() -> None:
    assert brief(said(Final(0, 1000, "One."), Interim(950, 1100, "two"), Final(950, 1500, "Two.")))[1:] == [
        ("customer-950", 1, "two", False),
        ("customer-950", 2, "Two.", True),
    ]


def test_replayed_speech_with_another_start_revises_the_same_bubble() -> None:
    published = said(
        Interim(1000, 2000, "my oil"), Interim(1040, 2500, "my oil light"), Final(1020, 2600, "My oil light.")
    )
    assert {u.utterance_id for u in published} == {"customer-1000"}
    assert {u.start_ms for u in published} == {1000}


def test_stretches_taken_for_one_become_one() -> None:
    published = said(Interim(0, 900, "my oil"), Interim(1000, 1900, "light"), Final(0, 1900, "My oil light."))
    assert brief(published)[2:] == [("customer-0", 2, "My oil light.", True), ("customer-1000", 2, "", True)]


@pytest.mark.parametrize("end", [EndOfSpeech(900, 1000), Covered(1000), Closed()])
def test_speech_without_a_final_is_final_when_it_is_over(end: SpeechEvent) -> None:
    published = said(Interim(0, 900, "yes"), end, Interim(0, 950, "yes please"), end)
    assert brief(published) == [("customer-0", 1, "yes", False), ("customer-0", 2, "yes", True)]


def test_a_final_after_the_end_of_speech_still_improves_the_text() -> None:
    published = said(Interim(0, 900, "yes"), EndOfSpeech(900, 1000), Final(0, 900, "Yes."), Final(0, 900, "Yes!"))
    assert brief(published)[1:] == [("customer-0", 2, "yes", True), ("customer-0", 3, "Yes.", True)]


def test_an_equal_final_after_the_end_of_speech_changes_nothing() -> None:
    assert len(said(Interim(0, 900, "yes"), EndOfSpeech(900, 1000), Final(0, 900, "yes"))) == 2


def test_speech_after_the_covered_time_stays_open() -> None:
    assert len(said(Interim(1200, 1500, "yes"), Covered(1000))) == 1


def test_a_lost_stream_and_a_gap_say_nothing() -> None:
    assert len(said(Interim(0, 500, "yes"), SpeechGap(500, None, "recogniser_lost", "open"), Closed(OSError()))) == 1


def test_a_backfilled_gap_is_a_bubble_of_its_own() -> None:
    subject = assembler()
    subject.on_speech("customer", Final(0, 1000, "One."), 0.0)
    subject.on_speech("customer", Final(5000, 6000, "Three."), 0.0)
    (filled,) = subject.on_speech("customer", Final(2000, 3000, "Two."), 0.0, origin="backfill")
    assert (filled.utterance_id, filled.origin, filled.is_final) == ("customer-2000", "backfill", True)


def test_speakers_are_independent() -> None:
    subject = assembler()
    subject.on_speech("customer", Final(0, 1000, "One."), 0.0)
    (agent,) = subject.on_speech("agent", Interim(0, 1000, "other"), 0.0)
    assert (agent.utterance_id, agent.revision) == ("agent-0", 1)


def test_a_recogniser_that_never_closes_is_bounded() -> None:
    subject = assembler()
    published = [
        utterance
        for number in range(3 * MAX_OPEN)
        for utterance in subject.on_speech("customer", Interim(number * 1000, number * 1000 + 900, "word"), 0.0)
    ]
    assert sum(1 for utterance in published if utterance.is_final) == 2 * MAX_OPEN


def test_closing_makes_what_is_open_final_once() -> None:
    subject = assembler()
    subject.on_speech("customer", Interim(0, 900, "yes"), 0.0)
    subject.on_speech("agent", Interim(500, 900, "no"), 0.0)
    assert brief(list(subject.close())) == [("customer-0", 2, "yes", True), ("agent-500", 2, "no", True)]
    assert subject.close() == ()


class TestResume:
    def test_a_finished_bubble_is_left_alone(self) -> None:
        published = said(Interim(0, 900, "new words"), known={"customer-0": (4, True), "customer-0.2": (1, True)})
        assert brief(published) == [("customer-0.3", 1, "new words", False)]

    def test_an_unfinished_bubble_is_continued(self) -> None:
        published = said(
            Interim(1050, 1100, "my"),
            Interim(1050, 1800, "my oil"),
            Final(1050, 1900, "My oil."),
            Interim(1050, 1700, "my"),
            known={"customer-1000": (4, False)},
        )
        assert brief(published) == [
            ("customer-1000", 5, "my", False),
            ("customer-1000", 6, "my oil", False),
            ("customer-1000", 7, "My oil.", True),
        ]
        assert {u.start_ms for u in published} == {1000}

    def test_an_unfinished_bubble_that_is_not_continued_is_removed(self) -> None:
        known = {"customer-1000": (4, False), "agent-1000": (1, False), "turn-7": (1, False)}
        published = said(Final(3000, 3500, "Yes."), Covered(3600), known=known)
        assert brief(published) == [("customer-3000", 1, "Yes.", True), ("customer-1000", 5, "", True)]

    def test_revisions_hand_over_to_the_next_life(self) -> None:
        subject = assembler()
        subject.on_speech("customer", Interim(0, 900, "yes"), 0.0)
        again = assembler(dict(subject.revisions))
        (continued,) = again.on_speech("customer", Final(0, 900, "Yes."), 0.0)
        assert (continued.utterance_id, continued.revision) == ("customer-0", 2)


def turn(revision: int, text: str = "x", *, is_final: bool = False, **fields: object) -> UtteranceIn:
    values = {"utterance_id": "t1", "speaker": "agent", "start_ms": 0, "end_ms": 10, **fields}
    return UtteranceIn(revision=revision, text=text, is_final=is_final, **values)  # type: ignore[arg-type]


class TestTranscriptSource:
    def test_its_ids_and_revisions_stay(self) -> None:
        published = assembler().on_utterance(turn(7, "  two \n words ", language="de"))
        assert published is not None
        assert (published.utterance_id, published.revision, published.text) == ("t1", 7, "two words")
        assert (published.origin, published.language) == ("transcript", "de")

    def test_a_revision_not_higher_is_ignored(self) -> None:
        subject = assembler({"t1": (3, False)})
        assert [subject.on_utterance(turn(n)) is not None for n in (2, 3, 4, 4, 5)] == [False, False, True, False, True]

    def test_an_interim_never_replaces_a_final_but_a_final_may(self) -> None:
        subject = assembler()
        assert subject.on_utterance(turn(1, "a", is_final=True)) is not None
        assert subject.on_utterance(turn(2, "b")) is None
        assert subject.on_utterance(turn(3, "c", is_final=True)) is not None

    def test_an_end_before_the_start_is_an_error_that_names_the_field(self) -> None:
        with pytest.raises(BadMessage) as caught:
            assembler().on_utterance(turn(1, start_ms=10, end_ms=5))
        assert caught.value.field == "end_ms"

    @given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=20))
    def test_revisions_only_grow_and_finals_stay_final(self, sent: list[tuple[int, bool]]) -> None:
        subject = assembler()
        published = [subject.on_utterance(turn(revision, is_final=is_final)) for revision, is_final in sent]
        kept = [utterance for utterance in published if utterance]
        assert all(a.revision < b.revision for a, b in itertools.pairwise(kept))
        assert all(b.is_final for a, b in itertools.pairwise(kept) if a.is_final)


# One recogniser's honest stream: utterances in audio order, each with growing interims, an end, perhaps a final.
TEXTS = st.sampled_from(["", "yes", "yes please", "  my  oil ", "light"])


@st.composite
def streams(draw: st.DrawFn) -> list[SpeechEvent]:
    events: list[SpeechEvent] = []
    at_ms = 0
    for _ in range(draw(st.integers(0, 5))):
        start_ms = at_ms + draw(st.integers(0, 2000))
        ends = sorted(start_ms + draw(st.integers(20, 4000)) for _ in range(draw(st.integers(1, 4))))
        events += [Interim(start_ms, end_ms, draw(TEXTS)) for end_ms in ends[:-1]]
        if draw(st.booleans()):
            events.append(Final(start_ms, ends[-1], draw(TEXTS)))
        events.append(EndOfSpeech(ends[-1], ends[-1]))
        at_ms = ends[-1]
    return events


@st.composite
def mangled(draw: st.DrawFn) -> list[tuple[Speaker, SpeechEvent]]:
    """Both sides' streams with duplicates, late arrivals and shaken times, in any order."""
    speakers: tuple[Speaker, ...] = get_args(Speaker)
    events = [(speaker, event) for speaker in speakers for event in draw(streams())]
    events += draw(st.lists(st.sampled_from(events), max_size=6)) if events else []
    if draw(st.booleans()):
        events = draw(st.permutations(events))
    return [(speaker, shaken(event, draw(st.integers(0, 60)))) for speaker, event in events]


def shaken(event: SpeechEvent, by_ms: int) -> SpeechEvent:
    return replace(event, start_ms=event.start_ms + by_ms) if isinstance(event, Interim) else event


KNOWN = st.dictionaries(
    st.sampled_from(["customer-0", "customer-700", "agent-0", "agent-1500", "turn-1"]),
    st.tuples(st.integers(1, 5), st.booleans()),
)


@settings(max_examples=examples(300))
@given(events=mangled(), known=KNOWN)
def test_the_promises_hold_in_any_order(
    events: list[tuple[Speaker, SpeechEvent]], known: dict[str, tuple[int, bool]]
) -> None:
    subject = assembler(known)
    published = [u for speaker, event in events for u in subject.on_speech(speaker, event, 0.0)]
    published += subject.close()
    assert subject.close() == ()

    bubbles: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in published:
        bubbles[utterance.utterance_id].append(utterance)
    for utterance_id, revisions in bubbles.items():
        before, was_final = known.get(utterance_id, (0, False))
        assert not was_final, "a final of an earlier life was touched"
        assert [u.revision for u in revisions] == list(range(before + 1, before + 1 + len(revisions)))
        assert len({(u.speaker, u.start_ms) for u in revisions}) == 1
        assert revisions[-1].is_final, "nothing stays open after the call"
        for earlier, later in itertools.pairwise(revisions):
            assert later.is_final or not earlier.is_final, "an interim after the final"
            assert (later.text, later.is_final) != (earlier.text, earlier.is_final), "a revision without a change"
            assert later.is_final or later.end_ms >= earlier.end_ms
        for utterance in revisions:
            assert utterance.start_ms <= utterance.end_ms
            assert utterance.text == " ".join(utterance.text.split())
        shown = any(u.text for u in revisions) or utterance_id in known
        assert shown, "a bubble that never had text was published"
    assert dict(subject.revisions) == known | {
        utterance_id: (revisions[-1].revision, True) for utterance_id, revisions in bubbles.items()
    }


@given(events=streams())
def test_speakers_do_not_influence_each_other(events: list[SpeechEvent]) -> None:
    alone, both = assembler(), assembler()
    for event in events:
        both.on_speech("agent", event, 0.0)
        assert alone.on_speech("customer", event, 0.0) == both.on_speech("customer", event, 0.0)


@given(events=streams())
def test_delivering_everything_twice_says_nothing_new(events: list[SpeechEvent]) -> None:
    subject = assembler()
    for event in events:
        subject.on_speech("customer", event, 0.0)
    assert [u for event in events for u in subject.on_speech("customer", event, 0.0) if u.text] == []


@given(streams())
def test_no_final_word_is_lost(events: list[SpeechEvent]) -> None:
    subject = assembler()
    published = [u for event in events for u in subject.on_speech("customer", event, 0.0)]
    for event in events:
        if isinstance(event, Final) and event.text.strip():
            text = " ".join(event.text.split())
            assert any(u.is_final and u.text == text and u.end_ms == event.end_ms for u in published)
