"""Whatever happens to the recogniser, the transcript is the undisturbed one. On virtual time."""

from __future__ import annotations

import random

import pytest

from server.speech.recovery.settings import RecoverySettings
from server.wire.errors import Forbidden, Overloaded, Unauthorised
from tests.server.speech.recovery.faults import FaultyRecogniser, Speech, place, talk, undisturbed
from tests.virtual_time import run_virtual, virtual_time


def expected(speech: Speech) -> dict[str, tuple[int, int, str]]:
    return {f"customer-{start}": (start, end, text) for start, end, text in speech.utterances}


@virtual_time
async def test_nothing_fails() -> None:
    speech = talk(1, 30)
    assert await undisturbed(speech) == expected(speech)


@pytest.mark.parametrize("kind", ["drop", "stall", "block", "full", "end"])
@virtual_time
async def test_one_fault_is_not_seen_in_the_transcript(kind: str) -> None:
    speech = talk(2, 40)
    outcome = await place(speech, [FaultyRecogniser(speech, fates=[(12.3, kind)])])
    assert outcome.transcript == expected(speech)
    assert len(outcome.finals) == len(speech.utterances)
    assert outcome.gaps == []


def random_fates(seed: int) -> list[tuple[float, str]]:
    draw = random.Random(seed)
    return [
        (
            draw.choice([draw.uniform(0, 3), draw.uniform(5, 15)]),
            draw.choice(["drop", "drop", "stall", "block", "full", "end"]),
        )
        for _ in range(draw.randrange(1, 12))
    ]


@pytest.mark.parametrize("block", range(4))
def test_random_faults(block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        speech = talk(seed, 60)
        recogniser = FaultyRecogniser(speech, fates=random_fates(seed))
        outcome = run_virtual(place(speech, [recogniser], draw=random.Random(seed).random))
        assert outcome.transcript == expected(speech), seed
        assert len({final.start_ms for final in outcome.finals}) == len(outcome.finals), seed


def random_outages(draw: random.Random) -> list[tuple[float, float]]:
    """Restarts of some seconds, and for every third call half a minute in which nobody answers."""
    now_s, outages = draw.uniform(2, 10), []
    for length_s in [draw.uniform(0.2, 6) for _ in range(draw.randrange(3))] + [30.0] * (draw.random() < 0.34):
        outages.append((now_s, now_s + length_s))
        now_s += length_s + draw.uniform(3, 12)
    return outages


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_hundreds_of_calls_with_faults_restarts_and_outages(block: int) -> None:
    """Streams that drop, stall, block and fill up, on a recogniser that restarts, with and without a second one."""
    for seed in range(1_000 + block * 30, 1_030 + block * 30):
        draw = random.Random(seed)
        speech = talk(seed, 110)
        speed = draw.choice([1.25, 4.0])
        recognisers = [
            FaultyRecogniser(speech, random_fates(seed + number), random_outages(draw), replay_speed=speed)
            for number in range(1 + (draw.random() < 0.3))
        ]
        outcome = run_virtual(place(speech, recognisers, draw=draw.random))
        assert outcome.transcript == expected(speech), seed
        assert len({final.start_ms for final in outcome.finals}) == len(outcome.finals), seed
        told: dict[int, list[str]] = {}
        for gap in outcome.gaps:
            told.setdefault(gap.from_ms, []).append(gap.state)
        assert all(states == ["open", "closed", "backfilled"] for states in told.values()), (seed, outcome.gaps)


@virtual_time
async def test_an_outage_of_half_a_minute_loses_nothing() -> None:
    speech = talk(5, 90)
    recogniser = FaultyRecogniser(speech, away=[(20.0, 50.0)])
    outcome = await place(speech, [recogniser])
    assert outcome.transcript == expected(speech)
    assert [gap.state for gap in outcome.gaps] == ["open", "closed", "backfilled"]
    assert len({gap.from_ms for gap in outcome.gaps}) == 1


@pytest.mark.parametrize("replay_speed", [1.25, 4.0])
@virtual_time
async def test_an_outage_longer_than_the_ring_is_one_gap_that_is_mended_from_the_spool(replay_speed: float) -> None:
    speech = talk(6, 240)
    recogniser = FaultyRecogniser(speech, away=[(20.0, 75.0)], replay_speed=replay_speed)
    outcome = await place(speech, [recogniser])
    assert outcome.transcript == expected(speech)
    assert [gap.state for gap in outcome.gaps] == ["open", "closed", "backfilled"]
    (from_ms,) = {gap.from_ms for gap in outcome.gaps}
    to_ms = outcome.gaps[-1].to_ms
    assert to_ms is not None
    assert outcome.late == {name for name, (start_ms, _, _) in expected(speech).items() if from_ms <= start_ms < to_ms}
    assert 18_000 <= from_ms <= 20_000
    assert 70_000 <= to_ms <= 77_000
    assert 55 <= outcome.count("cueline_asr_replayed_seconds_total") <= 62


@virtual_time
async def test_without_a_spool_what_the_ring_could_not_hold_is_told_as_lost() -> None:
    speech = talk(6, 240)
    recogniser = FaultyRecogniser(speech, away=[(20.0, 75.0)])
    outcome = await place(speech, [recogniser], RecoverySettings(spool_s=0))
    opened, closed, lost, mended = outcome.gaps
    assert [gap.state for gap in outcome.gaps] == ["open", "closed", "lost", "backfilled"]
    assert (lost.from_ms, closed.to_ms) == (opened.from_ms, mended.to_ms)
    assert lost.to_ms == mended.from_ms
    assert lost.to_ms is not None
    # What crosses the edges of the lost span may be heard in part; everything else is whole, and nothing is invented.
    for name, (start_ms, end_ms, text) in expected(speech).items():
        if end_ms <= lost.from_ms or start_ms >= lost.to_ms:
            assert outcome.transcript[name] == (start_ms, end_ms, text)
        elif start_ms >= lost.from_ms and end_ms + 240 <= lost.to_ms:
            assert name not in outcome.transcript


@virtual_time
async def test_a_hosted_vendor_hears_live_at_once_and_the_backlog_beside_it() -> None:
    speech = talk(7, 120)
    recogniser = FaultyRecogniser(speech, away=[(30.0, 42.0)], replay_speed=1.25)
    outcome = await place(speech, [recogniser])
    assert outcome.transcript == expected(speech)
    live_ms, mending_ms = recogniser.opened[1:]
    assert 39_000 <= live_ms <= 42_500
    assert mending_ms < 30_000


@virtual_time
async def test_a_second_stream_that_ends_before_it_heard_all_is_asked_again() -> None:
    speech = talk(7, 120)
    recogniser = FaultyRecogniser(speech, away=[(30.0, 42.0)], fates=[None, None, (4.0, "end")], replay_speed=1.25)
    outcome = await place(speech, [recogniser])
    assert outcome.transcript == expected(speech)
    assert len(recogniser.opened) == 4


@virtual_time
async def test_the_next_recogniser_takes_over_after_five_seconds_and_keeps_the_call() -> None:
    speech = talk(8, 60)
    preferred = FaultyRecogniser(speech, away=[(20.0, 40.0)], name="preferred")
    second = FaultyRecogniser(speech, name="second")
    outcome = await place(speech, [preferred, second])
    assert outcome.transcript == expected(speech)
    assert outcome.gaps == []
    assert preferred.opened == [0]
    assert preferred.num_connects <= 1 + 5
    assert len(second.opened) == 1


@pytest.mark.parametrize("refusal", [Unauthorised("bad key"), Forbidden("no credit"), Overloaded("full")])
@virtual_time
async def test_who_refuses_is_passed_over_at_once(refusal: Exception) -> None:
    speech = talk(9, 20)
    preferred = FaultyRecogniser(speech, refusal=refusal)
    second = FaultyRecogniser(speech)
    outcome = await place(speech, [preferred, second])
    assert outcome.transcript == expected(speech)
    assert preferred.num_connects == 1
    assert second.opened == [0]


@virtual_time
async def test_a_call_is_refused_when_nobody_has_room_or_all_refuse() -> None:
    speech = talk(9, 5)
    full, unknown = FaultyRecogniser(speech, refusal=Overloaded("full")), Unauthorised("bad key")
    with pytest.raises(Overloaded):
        await place(speech, [FaultyRecogniser(speech, refusal=unknown), full])
    with pytest.raises(Unauthorised):
        await place(speech, [FaultyRecogniser(speech, refusal=unknown)])


@virtual_time
async def test_a_call_that_begins_while_nobody_answers_is_taken() -> None:
    speech = talk(10, 40)
    outcome = await place(speech, [FaultyRecogniser(speech, away=[(0.0, 8.0)])])
    assert outcome.transcript == expected(speech)
    assert [gap.state for gap in outcome.gaps] == ["open", "closed", "backfilled"]


@virtual_time
async def test_a_recogniser_that_is_gone_to_the_end_leaves_a_gap_that_is_told_lost_and_a_call_that_ends() -> None:
    speech = talk(11, 40)
    outcome = await place(speech, [FaultyRecogniser(speech, away=[(20.0, 1e9)])])
    kept = {name: value for name, value in expected(speech).items() if value[1] + 440 < 20_000}
    assert kept.items() <= outcome.transcript.items()
    assert [gap.state for gap in outcome.gaps] == ["open", "lost"]
    assert outcome.gaps[-1].to_ms == speech.length_ms
    assert outcome.ended_s <= 40 + RecoverySettings().close_limit_s + 0.1


@virtual_time
async def test_a_drop_at_the_last_word_is_replayed_after_the_call() -> None:
    speech = talk(12, 30)
    last_s = speech.utterances[-1][1] / 1000
    outcome = await place(speech, [FaultyRecogniser(speech, fates=[(last_s, "drop"), (0.05, "drop")])])
    assert outcome.transcript == expected(speech)


@virtual_time
async def test_a_source_faster_than_real_time_waits_for_a_recogniser_that_is_full() -> None:
    speech = talk(13, 120)
    outcome = await place(speech, [FaultyRecogniser(speech, fates=[(0.2, "full")])], speed=50.0)
    assert outcome.transcript == expected(speech)
    assert outcome.gaps == []
    assert outcome.ended_s >= 4


@virtual_time
async def test_a_recogniser_that_stays_full_is_left_behind_by_live() -> None:
    speech = talk(14, 120)
    recogniser = FaultyRecogniser(speech, fates=[(10.0, "full")], full_s=45.0)
    outcome = await place(speech, [recogniser])
    assert outcome.transcript == expected(speech)
    assert recogniser.opened[1] > 35_000
