"""Questions of a call to cards of a call, over a real base."""

import asyncio

import msgspec
import pytest

from retrieval.errors import DamagedIndex
from server.knowledge.assistant import MAX_SEARCHES, Assistant, Found, Gone, Unanswered
from server.metrics import Metrics
from server.policy.loading import parse_policy
from server.policy.rulebook import RuleBook
from server.policy.runtime import CallPolicy
from server.wire.clock import Stamps
from server.wire.publication import Action, Evidence
from tests.server.knowledge.test_questions import question
from tests.server.policy.script import utterance

POLICY = """
tenant: shop
version: 1
graph: guidance
knowledge: faq
moments:
  - {id: refund, speaker: customer, lexical: refund}
actions:
  - {id: receipt, on: refund, type: hint, title: "Ask for the receipt", knowledge: true}
"""
ASKED = "how long does a refund for a returned jacket take"


class Call:
    """One call's assistant and what it delivered."""

    def __init__(self, library, policy=POLICY, writer=None):
        self.metrics = Metrics()
        self.delivered = asyncio.Queue()
        self.assistant = Assistant(
            library, "shop", parse_policy(policy, source="shop.yaml"), self.delivered.put_nowait, self.metrics, writer
        )

    def hear(self, text, revision=1, final=True, is_question=True, name="u1", end_s=1.0):
        said = utterance(name, text, end_s=end_s, revision=revision, final=final)
        self.assistant.on_utterance(said, Stamps())
        self.assistant.on_annotations([question(revision, is_question, name=name)], said, Stamps())

    async def next(self):
        async with asyncio.timeout(10):
            return await self.delivered.get()

    async def idle(self):
        async with asyncio.timeout(10):
            await asyncio.gather(*(s.task for s in self.assistant._searches.values()))

    def count(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"cueline_knowledge_{name}_total", labels) or 0


@pytest.fixture
async def call(library):
    call = Call(library)
    yield call
    await call.assistant.stop()


async def test_a_question_becomes_an_answer_with_its_source(call):
    call.hear(ASKED)
    found = await call.next()
    assert isinstance(found, Found)
    assert "five working days" in found.finding.body
    assert found.finding.cites[0].source == "refund.md"
    assert found.finding.evidence.utterance_id == "u1"
    assert call.count("questions", outcome="shown") == 1


async def test_a_second_question_to_the_same_passage_is_answered_on_the_card_of_the_first(call):
    guidance = CallPolicy(RuleBook(parse_policy(POLICY, source="shop.yaml")))
    cards = []
    for number, (text, bodies) in enumerate(
        [(ASKED, ["five working days"]), ("does the refund go to the card", ["five working days", "goes to the card"])]
    ):
        guidance.on_utterance(utterance(f"u{number}", text, end_s=1.0 + number), 1.0 + number)
        call.hear(text, name=f"u{number}", end_s=1.0 + number)
        (card,) = guidance.on_finding((await call.next()).finding, 1.5 + number)
        call.assistant.on_action(card, Stamps())
        assert [each in card.body for each in bodies] == [True] * len(bodies)
        cards.append(card)
    assert [(card.id, card.state) for card in cards] == [(cards[0].id, "new"), (cards[0].id, "update")]
    assert [each.utterance_id for each in cards[1].evidence] == ["u0", "u1"]
    call.hear("how long does a refund for the jacket take", name="u2", end_s=4.0)
    assert await call.next() == Gone("u2"), "it is on the card"


async def test_what_no_article_answers_is_not_shown(call):
    call.hear("zebra quantum lasagne")
    kept = (await call.next()).action
    assert (kept.id, kept.title, kept.reason) == ("unanswered:u1", "zebra quantum lasagne", "unanswered")
    assert await call.next() == Gone("u1")
    assert call.count("questions", outcome="abstained") == 1


async def test_an_interims_search_is_held_until_the_final_confirms_it(call):
    call.hear("how long does a refund", 1, final=False)
    call.hear(ASKED, 2, final=False)
    await call.idle()
    assert call.delivered.empty()
    call.hear(ASKED, 3)
    assert call.delivered.get_nowait().finding.evidence.is_final
    assert call.count("speculation", result="hit") == 1


async def test_an_interims_search_ends_with_its_question(call):
    call.hear("how long does a refund", 1, final=False)
    call.hear(ASKED, 2, final=False)
    call.hear("however long a refund takes", 3, is_question=False)
    assert await call.next() == Gone("u1")
    assert call.count("speculation", result="cancelled") == 1
    assert not call.assistant._searches


async def test_another_final_is_searched_for_anew(call):
    call.hear("hiking boots", 1, final=False)
    call.hear("hiking boots that keep", 2, final=False)
    call.hear(ASKED, 3)
    assert (await call.next()).finding.cites[0].source == "refund.md"
    assert call.count("speculation", result="changed") == 1
    await call.idle()
    assert call.delivered.empty()


async def test_a_card_gets_the_passage_it_wants(call):
    evidence = Evidence(utterance_id="u1", text=ASKED, start_ms=0, end_ms=1000, speaker="customer", rule="r")
    card = Action(
        id="receipt-1", revision=1, type="hint", title="", state="new", priority=5, ttl_ms=1, evidence=(evidence,)
    )
    call.assistant.on_action(card, Stamps())
    assert (await call.next()).finding.action_id == "receipt-1"


async def test_an_agent_is_told_that_nothing_was_found(call):
    call.assistant.ask("zebra quantum lasagne", Stamps())
    assert isinstance(await call.next(), Unanswered)
    finding = (await call.next()).finding
    assert (finding.is_asked, finding.title, finding.cites) == (True, "zebra quantum lasagne", ())


async def test_what_an_agent_types_is_looked_for_and_not_what_the_call_is_about(call):
    for number in range(6):
        call.hear(
            f"the refund for my returned jacket {number}", name=f"u{number}", end_s=number + 1.0, is_question=False
        )
    call.assistant.ask("do hiking boots come with a warranty", Stamps())
    assert (await call.next()).finding.cites[0].source == "boots.md"


async def test_a_question_without_a_word_is_not_answered_with_what_the_conversation_is_about(call, caplog):
    call.hear(ASKED)
    await call.next()
    call.assistant.ask("?", Stamps())
    finding = (await call.next()).finding
    assert (finding.is_asked, finding.title, finding.cites) == (True, "?", ())
    assert call.count("questions", outcome="failed") == 0
    assert not caplog.text


async def test_a_base_that_fails_costs_cards_and_nothing_else(call, library, monkeypatch, caplog):
    async def broken(*_, **__):
        raise DamagedIndex("torn")

    monkeypatch.setattr(library, "search", broken)
    for number in range(3):
        call.hear(ASKED, name=f"u{number}")
    call.assistant.ask("refund", Stamps())
    assert "cannot be searched" in (await call.next()).finding.body
    assert call.count("questions", outcome="failed") == 4
    assert caplog.text.count("knowledge assist fails") == 1


async def test_a_base_deleted_during_the_call_is_told_to_who_asks(call, library):
    library.store("shop", "faq").delete()
    call.assistant.ask("refund", Stamps())
    assert "cannot be searched" in (await call.next()).finding.body


async def test_a_flood_of_questions_keeps_the_newest(call):
    for number in range(MAX_SEARCHES + 3):
        call.hear(f"{ASKED} {number}", name=f"u{number}")
    assert len(call.assistant._searches) == MAX_SEARCHES
    assert call.count("questions", outcome="superseded") == 3


class ScriptedWriter:
    """Writes when told to."""

    def __init__(self):
        self.go = asyncio.Event()
        self.ended = []

    async def write(self, tenant, base, question, answer):
        try:
            await self.go.wait()
            for body in ("One. [1]", "One. [1] Two. [1]"):
                yield body
            self.ended.append("done")
        finally:
            if not self.ended:
                self.ended.append("given up")


async def test_an_answer_is_written_into_its_card(library):
    writer = ScriptedWriter()
    call = Call(library, writer=writer)
    call.hear(ASKED)
    first = (await call.next()).finding
    assert not first.is_update
    writer.go.set()
    updates = [(await call.next()).finding for _ in range(2)]
    assert [(finding.key, finding.body, finding.is_update) for finding in updates] == [
        ("u1", "One. [1]", True),
        ("u1", "One. [1] Two. [1]", True),
    ]
    await call.assistant.stop()


@pytest.mark.parametrize("event", ["newer question", "no question", "card gone", "call over"])
async def test_writing_ends_with_its_question(library, event):
    writer = ScriptedWriter()
    call = Call(library, writer=writer)
    call.hear(ASKED)
    finding = (await call.next()).finding
    await asyncio.sleep(0)
    (task,) = [task for task in call.assistant._tasks if task.get_name() == "knowledge-writing"]
    match event:
        case "newer question":
            call.hear("do hiking boots keep water outside", name="u2", end_s=5.0)
            await call.next()
        case "no question":
            call.hear("however long", 2, is_question=False)
        case "card gone":
            card = Action(
                id="knowledge.answer-1", revision=2, type="answer", title="", state="expire", priority=5, ttl_ms=1,
                reason="used", evidence=(finding.evidence,), cites=finding.cites,
            )  # fmt: skip
            call.assistant.on_action(card, Stamps())
    if event != "call over":
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
    await call.assistant.stop()
    assert writer.ended[0] == "given up"


async def test_without_a_base_only_who_asks_is_answered(library):
    call = Call(library, "tenant: shop\nversion: 1\ngraph: guidance\n")
    call.hear(ASKED)
    call.assistant.ask("refund", Stamps())
    assert "no knowledge base" in (await call.next()).finding.body
    assert call.delivered.empty()


def answer(found, **changes):
    """The card that a policy makes of a finding."""
    finding = found.finding
    card = Action(
        id="answer-1",
        revision=1,
        type="answer",
        title=finding.title,
        state="new",
        priority=5,
        ttl_ms=60_000,
        cites=finding.cites,
        evidence=(finding.evidence,),
    )
    return msgspec.structs.replace(card, **changes)


@pytest.mark.parametrize(("reason", "outcome"), [("", "duplicate"), ("dismissed", "rejected")])
async def test_the_same_question_is_not_shown_again_after_a_takeover(call, library, reason, outcome):
    call.hear(ASKED)
    card = answer(await call.next())
    call.assistant.on_action(card, Stamps())
    if reason:
        call.assistant.on_action(answer_over(card, reason), Stamps())
    said = utterance("u1", ASKED, end_s=1.0)
    other = Call(library)
    other.assistant.restore(call.assistant.state(), [said], [] if reason else [card])
    other.hear(ASKED)  # the next owner hears it once more
    await other.idle()
    assert other.delivered.empty()
    other.hear(ASKED, name="u2", end_s=9.0)  # and the customer asks again
    assert await other.next() == Gone("u2")
    assert other.count("questions", outcome=outcome) == 1
    await other.assistant.stop()


async def test_a_search_that_a_takeover_cut_off_is_made_again(call, library):
    said = utterance("u1", ASKED, end_s=1.0)
    call.assistant.on_utterance(said, Stamps())
    call.assistant.on_annotations([question(1, True, name="u1")], said, Stamps())
    state = call.assistant.state()
    assert state.searching == ("u1",)
    other = Call(library)
    other.assistant.restore(state, [said], [])
    other.hear(ASKED)
    assert (await other.next()).finding.cites[0].source == "refund.md"
    await other.assistant.stop()


def answer_over(card, reason):
    return msgspec.structs.replace(card, revision=2, state="expire", reason=reason)
