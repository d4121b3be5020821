"""When the knowledge base is asked, and what."""

import msgspec

from server.knowledge.questions import Confirm, Questions, QuestionsState, Search, Withdraw
from server.policy.loading import parse_policy
from server.wire.publication import Action, Annotation, Evidence
from tests.server.policy.script import utterance

HEAD = "tenant: shop\nversion: 1\ngraph: guidance\nknowledge: shop\n"


def questions(assist=""):
    return Questions(parse_policy(HEAD + assist, source="shop.yaml").assist)


def question(revision=1, is_question=True, score=0.9, name="u1"):
    return Annotation(
        utterance_id=name,
        revision=revision,
        output="question",
        value={"is_question": is_question, "score": score},
        score=score,
        model="utterance",
        version=1,
    )


def hear(call, text, revision=1, final=False, is_question=True, name="u1", end_s=1.0, **claims):
    said = utterance(name, text, end_s=end_s, revision=revision, final=final)
    return [
        *call.on_utterance(said),
        *call.on_annotation(question(revision, is_question, name=name, **claims), said),
    ]


def test_a_final_question_is_searched_for_in_its_conversation():
    call = questions()
    hear(call, "my jacket came back", final=True, is_question=False, name="u0", end_s=1.0)
    call.on_utterance(utterance("a1", "which one was it", end_s=3.0, speaker="agent"))
    (search,) = hear(call, "how long does it take", final=True, end_s=6.0)
    assert isinstance(search, Search)
    assert not search.is_tentative
    assert (search.question.key, search.question.text) == ("u1", "how long does it take")
    assert [turn.text for turn in search.question.context] == ["my jacket came back", "which one was it"]
    assert search.question.evidence.rule == "assist.on.question"


def test_two_interims_in_a_row_begin_and_the_same_final_confirms():
    call = questions()
    assert hear(call, "how long", 1) == []
    (search,) = hear(call, "how long does it take", 2)
    assert search.is_tentative
    assert hear(call, "How long does it take?", 3) == []
    (confirm,) = hear(call, "How long does it take?", 4, final=True)
    assert isinstance(confirm, Confirm)
    assert confirm.question.evidence.is_final


def test_another_final_is_searched_for_anew():
    call = questions()
    hear(call, "how long", 1)
    hear(call, "how long does it", 2)
    (search,) = hear(call, "how long does it take to ship", 3, final=True)
    assert isinstance(search, Search)
    assert not search.is_tentative


def test_a_final_that_asks_nothing_withdraws():
    call = questions()
    hear(call, "how long", 1)
    hear(call, "how long does it", 2)
    assert hear(call, "however long it takes", 3, final=True, is_question=False) == [Withdraw("u1")]
    assert hear(call, "however long it takes", 4, final=True, is_question=False) == []


def test_a_late_interim_says_nothing_about_a_final():
    call = questions()
    hear(call, "how long does it take", 2, final=True)
    late = utterance("u1", "how long does", end_s=1.0, revision=1, final=False)
    assert call.on_annotation(question(1, is_question=False), late) == []


def test_words_that_are_taken_back_take_their_question_along():
    call = questions()
    hear(call, "how long does it take", 1, final=True)
    assert call.on_utterance(utterance("u1", "", end_s=1.0, revision=2)) == [Withdraw("u1")]


def test_an_agent_who_looks_it_up_asks_for_what_the_customer_said():
    call = questions()
    hear(call, "the oil light stays on", final=True, is_question=False, name="u0", end_s=1.0)
    hear(call, "yes please", final=True, is_question=False, name="u1", end_s=3.0)
    (search,) = call.on_utterance(utterance("a1", "Let me check that for you.", end_s=6.0, speaker="agent"))
    assert (search.question.trigger, search.question.key) == ("checking", "u0")
    assert call.on_utterance(utterance("a2", "let me look", end_s=9.0, speaker="agent")) == []


def test_what_was_asked_is_not_looked_up_twice():
    call = questions()
    hear(call, "how long does it take", final=True)
    assert call.on_utterance(utterance("a1", "let me check", end_s=4.0, speaker="agent")) == []


def test_a_policy_says_when():
    assert hear(questions("assist: {on: []}"), "how long does it take", final=True) == []
    quiet = questions("assist: {on: [question], min_score: 0.95}")
    assert hear(quiet, "how long does it take", final=True) == []
    assert quiet.on_utterance(utterance("a1", "let me check", end_s=4.0, speaker="agent")) == []


def test_a_card_asks_with_the_words_behind_it():
    call = questions()
    hear(call, "i got a light", final=True, is_question=False, name="u0")
    evidence = Evidence(
        utterance_id="u9", text="my oil light", start_ms=5000, end_ms=6000, speaker="customer", rule="r"
    )
    card = Action(
        id="light-1", revision=1, type="hint", title="", state="new", priority=5, ttl_ms=1, evidence=(evidence,)
    )
    (search,) = call.on_card(card)
    assert (search.question.key, search.question.action_id) == ("card:light-1", "light-1")
    assert [turn.text for turn in search.question.context] == ["i got a light"]


def test_an_agent_asks_in_the_conversation():
    call = questions()
    hear(call, "my jacket came back", final=True, is_question=False)
    search = call.ask("how long does a refund take")
    assert (search.question.key, search.question.evidence) == ("ask:1", None)
    assert [turn.text for turn in search.question.context] == ["my jacket came back"]
    assert call.ask("again").question.key == "ask:2"


def test_what_was_asked_is_not_asked_again_by_another_process():
    call, other = questions(), questions()
    hear(call, "how long does it take", final=True)
    hear(call, "and what does it cost", final=True, name="u2", end_s=3.0)
    call.ask("refund")
    state = call.state(but=["u2"])
    assert b"long" not in msgspec.msgpack.encode(state)
    other.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=QuestionsState), [])
    (confirm,) = hear(other, "how long does it take", final=True)
    assert isinstance(confirm, Confirm)
    (search,) = hear(other, "and what does it cost", final=True, name="u2", end_s=3.0)
    assert isinstance(search, Search)
    assert other.ask("refund").question.key == "ask:2"


def test_another_process_knows_what_was_said():
    call, other = questions(), questions()
    said = [utterance(f"u{number}", f"sentence {number}", end_s=float(number)) for number in range(1, 4)]
    for one in said:
        call.on_utterance(one)
    other.restore(call.state(), said)
    assert other.ask("refund") == call.ask("refund")
