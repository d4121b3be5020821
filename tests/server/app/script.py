"""A scripted car-service call as the publications of the rooms before the feed: every kind, every state of a card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from server.wire.clock import Stamps, wall_ms
from server.wire.ids import Speaker
from server.wire.publication import (
    Action,
    Annotation,
    Checklist,
    ChecklistItem,
    Citation,
    Evidence,
    Gap,
    Notice,
    Payload,
    Summary,
    SummarySection,
    Transcript,
)

Line = tuple[Speaker, int, int, str]

LINES: tuple[Line, ...] = (
    ("agent", 400, 3900, "Thank you for calling Northside Motors, this is Dana. How can I help you today?"),
    ("customer", 4600, 9200, "Hi, yes, I had my oil changed with you last week and the oil light is still on."),
    ("customer", 9600, 12100, "I really don't have time to come back again for this."),
    ("agent", 12900, 15200, "Oh no, I'm sorry about that. Which car is it?"),
    ("customer", 15900, 19800, "It's a 2019 Corolla. Is it even safe to drive like this?"),
    ("agent", 20500, 25100, "It usually just needs a reset, I can walk you through it right now if you like."),
    ("customer", 25800, 28200, "Okay, that would be great actually."),
)
CHECKLIST = ("Greet and give your name", "Verify the caller's name", "Confirm the model", "Offer an appointment")
SENTIMENTS = {1: -0.55, 2: -0.8, 4: -0.35, 6: 0.7}
INTENTS = {1: ("oil_change_how", 0.91, True), 2: ("cancel_reservation", 0.22, False), 4: ("car_safety", 0.83, True)}


def stamps(asr_ms: float = 240.0, inference_ms: float = 38.0, age_ms: float = 0.0) -> Stamps:
    """Stamps of an utterance whose way through the server ends now, or `age_ms` ago; `t8` is left to the log."""
    t7 = wall_ms() - age_ms
    t6 = t7 - inference_ms
    t4 = t6 - 3.2
    t3 = t4 - 1.1
    t1 = t3 - asr_ms
    return Stamps(t0=t1 - 24.0, t1=t1, t2=t1 + 2, t3=t3, t4=t4, t5=t4 + 1, t6=t6, t7=t7, frame_ms=20.0)


def utterance(
    number: int, *, revision: int = 2, is_final: bool = True, text: str | None = None, line: Line | None = None
) -> Transcript:
    speaker, start_ms, end_ms, words = line or LINES[number]
    return Transcript(
        utterance_id=f"u{number}",
        revision=revision,
        speaker=speaker,
        start_ms=start_ms,
        end_ms=end_ms,
        text=words if text is None else text,
        is_final=is_final,
    )


def interim(number: int) -> Transcript:
    words = LINES[number][3].split()
    return utterance(number, revision=1, is_final=False, text=" ".join(words[: len(words) // 2]))


def annotation(number: int, output: str, value: Any, score: float | None) -> Annotation:
    return Annotation(
        utterance_id=f"u{number}",
        revision=2,
        output=output,
        value=value,
        score=score,
        model="utterance",
        version=3,
        queue_ms=1.2,
        compute_ms=9.4,
    )


def annotations(number: int) -> Iterator[Annotation]:
    if number in SENTIMENTS:
        value = SENTIMENTS[number]
        scores = {"negative": max(0.0, -value), "neutral": 1 - abs(value), "positive": max(0.0, value)}
        label = max(scores, key=lambda name: scores[name])
        yield annotation(number, "sentiment", {"label": label, "score": scores[label], "scores": scores}, scores[label])
        yield annotation(number, "dissatisfied", {"score": 0.8 if value < -0.5 else 0.1}, None)
    if number in INTENTS:
        label, score, in_scope = INTENTS[number]
        value = {"label": label, "score": score, "in_scope": in_scope, "in_scope_score": 0.9 if in_scope else 0.1}
        yield annotation(number, "intent", value, score)


def evidence(number: int, rule: str = "moments.warning_light.any[0]") -> Evidence:
    speaker, start_ms, end_ms, text = LINES[number]
    return Evidence(
        utterance_id=f"u{number}",
        text=text,
        start_ms=start_ms,
        end_ms=end_ms,
        speaker=speaker,
        rule=rule,
        phrase="the oil light is still on",
        score=0.87,
        model="utterance",
        version=3,
    )


def card(card_id: str, *, state: str = "new", revision: int = 1, **fields: Any) -> Action:
    defaults: dict[str, Any] = {
        "type": "hint",
        "title": "Offer the reset walk-through",
        "body": "Ignition **on**, engine *off*:\n1. Press `TRIP` until *Oil life* shows\n2. Hold it for five seconds",
        "priority": 5,
        "ttl_ms": 90_000,
        "evidence": (evidence(1),),
    }
    return Action(id=card_id, state=state, revision=revision, **(defaults | fields))  # type: ignore[arg-type]


ANSWER = {
    "type": "answer",
    "title": "Is it safe to drive with the oil light on?",
    "body": "A light that stays on after an oil change is most often the **service reminder**, which needs a reset.\n\n"
    "A *red* oil can means low pressure: stop the engine.",
    "priority": 6,
    "cites": (
        Citation(
            source="manuals/corolla_2019.md",
            title="Corolla 2019, warning lights",
            text="The maintenance reminder lights up every 5,000 miles until it is reset.",
            score=0.82,
            highlights=((35, 46),),
        ),
    ),
    "evidence": (evidence(4, "knowledge.question"),),
}
REPLY = {
    "type": "reply",
    "title": "Acknowledge the wait",
    "body": "I understand, you should not have to come back for this. Let me sort it out with you now.",
    "priority": 4,
    "evidence": (evidence(2, "moments.frustrated_customer.any[1]"),),
}
ALERT = {
    "type": "alert",
    "title": "The customer is thinking of leaving",
    "body": "",
    "priority": 9,
    "evidence": (evidence(2, "moments.churn_risk.any[0]"),),
}


def checklist(num_done: int, revision: int) -> Checklist:
    done_by = ("u0", "u1", "u4", "u5")
    return Checklist(
        revision=revision,
        items=tuple(
            ChecklistItem(id=f"step{index}", title=title, is_done=True, done_by=done_by[index], at_ms=3900)
            if index < num_done
            else ChecklistItem(id=f"step{index}", title=title, is_done=False)
            for index, title in enumerate(CHECKLIST)
        ),
    )


GAP_OPEN = Gap(from_ms=28_600, to_ms=None, cause="recogniser_lost", state="open", speaker="customer")
GAP_BACKFILLED = Gap(from_ms=28_600, to_ms=31_200, cause="recogniser_lost", state="backfilled", speaker="customer")
NOTICE = Notice(code="shedding", message="Sentiment is updated less often: the server is busy.", severity="warning")
SUMMARY = Summary(
    revision=1,
    is_final=True,
    sections=(
        SummarySection(title="Reason", text="Oil light still on after an oil change a week ago.", evidence=("u1",)),
        SummarySection(title="Done", text="- Walked through the reset\n- No visit needed", evidence=("u5",)),
    ),
)


def talk() -> Iterator[tuple[Payload, Stamps]]:
    """The call up to its last line, in the order in which the server would publish it."""
    yield checklist(0, 1), Stamps()
    for number in range(len(LINES)):
        yield interim(number), stamps(asr_ms=180)
        yield utterance(number), stamps(asr_ms=330 if number == 2 else 240)
        for each in annotations(number):
            yield each, stamps()
        if number == 0:
            yield checklist(1, 2), Stamps()
        if number == 1:
            yield card("reset_light#1"), stamps()
        if number == 2:
            yield card("wait#1", **REPLY), stamps(inference_ms=61)
            yield card("early#1", title="Ask for the order number", ttl_ms=1000), stamps()
        if number == 4:
            yield card("answer#1", **ANSWER), stamps(inference_ms=120)
            yield card("early#1", state="expire", revision=2, title="Ask for the order number", ttl_ms=1000), stamps()
            yield checklist(3, 3), Stamps()
