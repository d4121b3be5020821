"""What is shown of what was found."""

import msgspec

from retrieval.search import Answer, Result
from server.knowledge.answers import NOTHING_FOUND, Screen, finding_of
from server.knowledge.questions import Question
from server.wire.publication import Action, Citation, Evidence

TEXT = "It is free. It takes forty minutes. Bring the key."
FOUND = Answer((Result("a.md", "Light › How", TEXT, 0.7, "p1", ((12, 35),)),), 0.7, 0.4, "", 1)
NOTHING = Answer((), 0.2, 0.4, "", 1)
EVIDENCE = Evidence(utterance_id="u1", text="how long", start_ms=0, end_ms=1, speaker="customer", rule="r")


def asked(trigger="question", key="u1"):
    return Question(key, "how long", (), trigger, EVIDENCE if trigger != "asked" else None)


def shown(
    action_id="knowledge.answer-1", utterance_id="u0", state="new", reason="", passage_id="p1", type="answer", said=()
):
    cites = (Citation(source="a.md", title="", text="", score=0.5, passage_id=passage_id, highlights=said),)
    evidence = (Evidence(utterance_id=utterance_id, text="", start_ms=0, end_ms=1, speaker="customer", rule="r"),)
    return Action(
        id=action_id, revision=1, type=type, title="", state=state, priority=5, ttl_ms=1,
        cites=cites, reason=reason, evidence=evidence,
    )  # fmt: skip


def test_the_sentences_that_answer_are_the_card_and_the_passage_its_source():
    outcome, finding = finding_of(asked(), FOUND, Screen())
    assert outcome == "shown"
    assert (finding.title, finding.body) == ("Light: How", "It takes forty minutes.")
    assert finding.cites[0].highlights == ((12, 35),)
    assert finding.cites[0].title == "Light › How"


def test_a_moments_card_gets_the_one_passage_that_says_it_best():
    further = Result("b.md", "Other", "It rains.", 0.6, "p2", ())
    found = Answer((*FOUND.results, further), 0.7, 0.4, "", 1)
    for trigger, cited in (("question", ["a.md", "b.md"]), ("moment", ["a.md"])):
        _, finding = finding_of(asked(trigger), found, Screen())
        assert [cite.source for cite in finding.cites] == cited


def test_nothing_is_shown_where_nothing_answers_but_the_agent_is_told():
    assert finding_of(asked(), NOTHING, Screen()) == ("abstained", None)
    outcome, finding = finding_of(asked("asked"), NOTHING, Screen())
    assert (outcome, finding.body, finding.cites) == ("abstained", NOTHING_FOUND, ())


def test_a_passage_on_the_screen_is_not_shown_twice():
    screen = Screen()
    screen.on_action(shown())
    assert finding_of(asked(), FOUND, screen) == ("duplicate", None)
    assert finding_of(asked("asked"), FOUND, screen)[0] == "shown"
    screen.on_action(shown(state="expire", reason="ttl"))
    assert finding_of(asked(), FOUND, screen)[0] == "shown"


def test_other_sentences_of_a_passage_on_the_screen_are_shown_with_those_that_are_there():
    screen = Screen()
    screen.on_action(shown(said=((0, 11),)))
    outcome, finding = finding_of(asked(), FOUND, screen)
    assert (outcome, finding.body) == ("shown", "It is free. … It takes forty minutes.")
    assert finding.cites[0].highlights == ((0, 11), (12, 35))
    assert finding_of(asked("asked"), FOUND, screen)[1].body == "It takes forty minutes."
    assert finding_of(asked("moment"), FOUND, screen) == ("duplicate", None)
    again = shown(said=((0, 11), (36, 50)), utterance_id="u1", state="update")
    screen.on_action(again)  # its words are repaired, and were another question's too, or not
    assert finding_of(asked(), FOUND, screen)[1].cites[0].highlights == ((12, 35),)
    screen.on_action(msgspec.structs.replace(again, evidence=again.evidence * 2))
    assert finding_of(asked(), FOUND, screen)[1].cites[0].highlights == ((0, 11), (12, 35), (36, 50))
    screen.on_action(shown(said=((0, 11), (12, 35)), state="update"))
    assert finding_of(asked(), FOUND, screen) == ("duplicate", None)
    screen.on_action(shown(state="expire", reason="used"))
    assert finding_of(asked(), FOUND, screen) == ("rejected", None)


def test_a_questions_own_card_is_no_duplicate():
    screen = Screen()
    screen.on_action(shown(utterance_id="u1"))
    assert finding_of(asked(), FOUND, screen)[0] == "shown"


def test_what_the_agent_dealt_with_does_not_come_again():
    for reason in ("used", "dismissed", "wrong"):
        screen = Screen()
        screen.on_action(shown())
        screen.on_action(shown(state="expire", reason=reason))
        assert finding_of(asked(), FOUND, screen) == ("rejected", None)


def test_a_hint_with_the_passage_keeps_no_question_from_its_answer_and_no_second_hint_gets_it():
    for end in (None, shown(type="hint", state="expire", reason="used")):
        screen = Screen()
        screen.on_action(shown(type="hint"))
        if end is not None:
            screen.on_action(end)
        assert finding_of(asked(), FOUND, screen)[0] == "shown"
        assert finding_of(asked("moment"), FOUND, screen)[1] is None
