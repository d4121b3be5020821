"""Which turn was before: finals only, answered ones only, in the order of the audio, and never another call's."""

from __future__ import annotations

import numpy as np

from inference.request import Carry
from server.orchestrator.turns import Turns
from server.wire.ids import ConversationId, TenantId
from server.wire.utterance import Utterance

CALL = "shop/call"


def utterance(name: str, start_ms: int, *, is_final: bool = True) -> Utterance:
    return Utterance(
        tenant_id=TenantId("shop"),
        conversation_id=ConversationId("call"),
        utterance_id=name,
        speaker="customer",
        start_ms=start_ms,
        end_ms=start_ms + 900,
        revision=1,
        text="hello",
        is_final=is_final,
    )


def carry(number: float) -> Carry:
    return Carry("utterance", 1, np.array([number], np.float32))


def say(turns: Turns, name: str, start_ms: int, number: float | None, call: str = CALL) -> Carry | None:
    """A final, answered with a number or not yet."""
    final = utterance(name, start_ms)
    turns.said(call, final)
    if number is None:
        return None
    handed = carry(number)
    turns.handed_on(call, final, handed)
    return handed


def test_a_call_begins_with_nothing_before_it() -> None:
    assert Turns().before(CALL, utterance("a", 0)) is None


def test_the_last_answered_final_of_the_call_is_before_the_next_utterance() -> None:
    turns = Turns()
    first = say(turns, "a", 0, 1.0)
    assert turns.before(CALL, utterance("b", 1000, is_final=False)) is first
    second = say(turns, "b", 1000, 2.0)
    assert turns.before(CALL, utterance("c", 2000)) is second
    assert turns.before("shop/other", utterance("c", 2000)) is None


def test_a_late_final_counts_as_nothing_and_not_as_the_one_before_it() -> None:
    turns = Turns()
    say(turns, "a", 0, 1.0)
    say(turns, "b", 1000, None)
    assert turns.before(CALL, utterance("c", 2000)) is None
    handed = carry(2.0)
    turns.handed_on(CALL, utterance("b", 1000), handed)
    assert turns.before(CALL, utterance("c", 2000)) is handed


def test_a_final_that_is_corrected_has_the_same_turn_before_it() -> None:
    turns = Turns()
    first = say(turns, "a", 0, 1.0)
    say(turns, "b", 1000, 2.0)
    assert turns.before(CALL, utterance("b", 1000)) is first
    corrected = say(turns, "b", 1000, 3.0)
    assert turns.before(CALL, utterance("c", 2000)) is corrected


def test_what_began_later_was_not_said_before() -> None:
    turns = Turns()
    first = say(turns, "a", 0, 1.0)
    third = say(turns, "c", 2000, 3.0)
    assert turns.before(CALL, utterance("b", 1000)) is first  # both sides spoke at once, or a gap was filled in
    say(turns, "b", 1000, 2.0)
    assert turns.before(CALL, utterance("d", 3000)) is third


def test_calls_that_are_over_or_too_many_are_forgotten() -> None:
    turns = Turns(max_calls=2)
    for call in ("one", "two", "three"):
        say(turns, "a", 0, 1.0, call)
    later = utterance("b", 1000)
    assert [turns.before(call, later) is None for call in ("one", "two", "three")] == [True, False, False]
    turns.forget("three")
    turns.forget("unknown")
    assert turns.before("three", later) is None


def test_another_process_goes_on_after_the_same_turns() -> None:
    turns, other = Turns(), Turns()
    say(turns, "a", 0, 1.5)
    say(turns, "b", 1000, None)
    other.restore(CALL, turns.state(CALL))
    assert other.state(CALL) == turns.state(CALL)
    before = other.before(CALL, utterance("b", 1000))
    assert before is not None
    assert (before.model, before.version, before.numbers.tolist()) == ("utterance", 1, [1.5])
    assert other.before(CALL, utterance("c", 2000)) is None, "the turn before it is not answered"
    other.handed_on(CALL, utterance("b", 1000), carry(2.5))
    assert other.before(CALL, utterance("c", 2000)) is not None
