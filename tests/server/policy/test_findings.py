"""What the knowledge base finds, as cards of a call."""

import pytest

from server.policy.cards import Finding
from server.policy.loading import parse_policy
from server.policy.rulebook import RuleBook
from server.policy.runtime import CallPolicy
from server.wire.errors import ConfigError
from server.wire.publication import Citation, Evidence
from tests.server.policy.script import utterance

POLICY = parse_policy(
    """
tenant: shop
version: 1
graph: guidance
knowledge: shop
moments:
  - {id: refund, speaker: customer, lexical: refund}
actions:
  - {id: receipt, on: refund, type: hint, title: "Ask for the receipt", ttl_s: 60, knowledge: true}
attention: {max_cards_per_min: 2, max_wait_s: 10}
assist: {max_shown: 2, ttl_s: 30, priority: 6}
""",
    source="shop.yaml",
)


def cites(passage_id="p1"):
    return (
        Citation(source="a.md", title="A", text="Two days.", score=0.9, passage_id=passage_id, highlights=((0, 9),)),
    )


CITES = cites()


def evidence(end_ms=1000, name="u1"):
    return Evidence(utterance_id=name, text="how long", start_ms=0, end_ms=end_ms, speaker="customer", rule="question")


def finding(key, **changes):
    told = {"key": key, "title": "A", "body": "Two days.", "cites": CITES, "evidence": evidence()} | changes
    return Finding(**told)


def started():
    call = CallPolicy(RuleBook(POLICY))
    call.on_utterance(utterance("u1", "how long does it take", end_s=1.0), 1.0)
    return call


def test_a_finding_is_a_card_with_its_source_and_expires():
    call = started()
    (card,) = call.on_finding(finding("u1"), 1.1)
    assert (card.type, card.state, card.body, card.priority) == ("answer", "new", "Two days.", 6)
    assert card.cites == CITES
    assert card.evidence[0].utterance_id == "u1"
    (gone,) = call.on_tick(31.1)
    assert (gone.id, gone.state, gone.reason) == (card.id, "expire", "ttl")


def test_the_same_question_changes_its_card():
    call = started()
    (card,) = call.on_finding(finding("u1"), 1.1)
    (changed,) = call.on_finding(finding("u1", body="Three days."), 1.2)
    assert (changed.id, changed.state, changed.revision, changed.body) == (card.id, "update", 2, "Three days.")


def test_an_answer_waits_for_its_turn_unless_it_was_asked_for():
    call = started()
    call.on_utterance(utterance("u2", "a refund please", end_s=2.0), 2.0)
    shown = [
        call.on_finding(finding(f"u{n}", evidence=evidence(2000), cites=cites(f"p{n}")), 2.0 + n) for n in range(3)
    ]
    assert [[card.state for card in cards] for cards in shown] == [["new"], [], []]
    (asked,) = call.on_finding(finding("ask-1", evidence=None, is_asked=True), 6.0)
    assert asked.state == "new"


def test_only_the_newest_answers_stay():
    call = started()
    told = [call.on_finding(finding(f"ask-{n}", is_asked=True, evidence=evidence(1000 + n)), 1.1) for n in range(3)]
    assert [(card.id.rpartition("-")[2], card.state, card.reason) for card in told[2]] == [
        ("3", "new", ""),
        ("1", "expire", "superseded"),
    ]


def test_a_card_that_wants_a_passage_gets_it():
    call = CallPolicy(RuleBook(POLICY))
    (hint,) = call.on_utterance(utterance("u1", "a refund please", end_s=1.0), 1.0)
    (cited,) = call.on_finding(finding("card", action_id=hint.id), 1.1)
    assert (cited.id, cited.state, cited.title, cited.cites) == (hint.id, "update", "Ask for the receipt", CITES)
    assert call.on_finding(finding("card", action_id="receipt-9"), 1.2) == ()


def test_a_question_that_is_none_any_more_takes_its_card_along():
    call = started()
    (card,) = call.on_finding(finding("u1"), 1.1)
    (gone,) = call.on_question_gone("u1", 1.2)
    assert (gone.id, gone.state, gone.reason) == (card.id, "retract", "contradicted")
    assert call.on_question_gone("u1", 1.3) == ()


def test_a_second_question_to_the_passage_on_the_screen_changes_its_card_and_costs_no_attention():
    call = started()
    (card,) = call.on_finding(finding("u1"), 1.1)
    call.on_utterance(utterance("u2", "and a refund", end_s=21.0), 21.0)  # the second card of this minute
    asked = finding("u3", body="Both.", evidence=evidence(22000, "u3"))
    (changed,) = call.on_finding(asked, 22.0)
    assert (changed.id, changed.state, changed.body, changed.ttl_ms) == (card.id, "update", "Both.", 30_000)
    assert [each.utterance_id for each in changed.evidence] == ["u1", "u3"]
    moved = CallPolicy.restore(RuleBook(POLICY), call.state(), 100.0)
    assert [c.id for c in moved.on_finding(finding("u3", body="Better.", is_update=True), 100.0)] == [card.id]
    # It was no question after all: the earlier one is still answered.
    (kept,) = call.on_question_gone("u3", 22.1)
    assert (kept.id, kept.state, [each.utterance_id for each in kept.evidence]) == (card.id, "update", ["u1"])
    (gone,) = call.on_question_gone("u1", 22.2)
    assert (gone.id, gone.state) == (card.id, "retract")


def test_what_the_agent_asked_for_stays_a_card_of_its_own():
    call = started()
    (asked,) = call.on_finding(finding("ask-1", evidence=None, is_asked=True), 1.1)
    (spoken,) = call.on_finding(finding("u1"), 1.2)
    (again,) = call.on_finding(finding("ask-2", evidence=None, is_asked=True), 1.3)[:1]
    assert len({asked.id, spoken.id, again.id}) == 3


def test_receipts_hand_over_and_the_end_are_those_of_every_card():
    call = started()
    (card,) = call.on_finding(finding("u1"), 1.1)
    moved = CallPolicy.restore(RuleBook(POLICY), call.state(), 100.0)
    assert [c.state for c in moved.on_receipt(card.id, "used", 101.0)] == ["expire"]
    assert [c.state for c in call.on_end(3.0)] == ["expire"]
    assert call.on_finding(finding("u2"), 4.0) == ()


def test_an_agent_may_ask_before_anybody_spoke():
    (card,) = CallPolicy(RuleBook(POLICY)).on_finding(finding("ask-1", evidence=None, is_asked=True), 50.0)
    assert card.state == "new"


def test_questions_are_asked_of_the_graph_only_where_it_tells_them():
    assert "question" in POLICY.wanted_outputs
    head = "tenant: shop\nversion: 1\ngraph: guidance\nknowledge: shop\n"
    graphs = {"guidance": {"intent": None}}
    assert "question" not in parse_policy(head, source="shop.yaml", graphs=graphs).wanted_outputs
    with pytest.raises(ConfigError, match=r"assist\.on"):
        parse_policy(head + "assist: {on: [question]}", source="shop.yaml", graphs=graphs)
