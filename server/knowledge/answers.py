"""What a search found becomes what a card says, or nothing. Pure.

Answer ─▶ abstained?  on the screen already?  rejected by the agent? ─▶ Finding
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import msgspec

from retrieval.highlight import Span
from retrieval.search import Answer, Result
from server.knowledge.questions import Question
from server.policy.cards import Finding
from server.store.contract import UNANSWERED
from server.wire.publication import Action, Citation

Outcome = Literal["shown", "abstained", "duplicate", "rejected"]

MAX_TITLE_CHARS = 120
NOTHING_FOUND = "No article answers this."
_KNOWN = frozenset({"used", "dismissed", "wrong"})
"""Receipts after which the agent does not want to see the passage again in this call."""


MAX_DEALT_WITH = 64
"""Cards that were dealt with and are handed on to another process: of more, the newest."""


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """A card with its first passage.

    Attributes:
        passage_id: Of the passage.
        is_answer: Not a hint that cites it.
        key: The question that it answers last; empty where it answers none.
        highlights: The sentences that it says; none: it says all.
        is_shared: It answers earlier questions too.
    """

    passage_id: str
    is_answer: bool
    key: str
    highlights: tuple[Span, ...] = ()
    is_shared: bool = False

    def says(self, result: Result) -> bool:
        """Whether the result's sentences are among its own."""
        if self.passage_id != result.passage_id:
            return False
        return not self.highlights or (bool(result.highlights) and set(result.highlights) <= set(self.highlights))


class Screen:
    """Which passages the agent sees or has dealt with. One a call.

    What answers a question is a card of its own: a hint that cites the same passage keeps it folded away, and which of
    the two searches ends first is chance, so only answers stand in an answer's way.
    """

    def __init__(self) -> None:
        self._shown: dict[str, Shown] = {}
        self._dealt_with: dict[Shown, None] = {}

    def on_action(self, action: Action) -> None:
        """Note a published card."""
        if action.state in ("new", "update"):
            if action.cites:
                is_answer = action.type == "answer"
                key = action.evidence[-1].utterance_id if is_answer and action.evidence else ""
                first = action.cites[0]
                is_shared = len(action.evidence) > 1
                self._shown[action.id] = Shown(first.passage_id, is_answer, key, first.highlights, is_shared)
            return
        shown = self._shown.pop(action.id, None)
        if shown is not None and action.reason in _KNOWN:
            self._dealt_with[shown] = None

    @property
    def dealt_with(self) -> tuple[Shown, ...]:
        """What the agent does not want to see again, for another process; what is on the screen the log knows."""
        return tuple(self._dealt_with)[-MAX_DEALT_WITH:]

    def restore(self, dealt_with: Iterable[Shown], cards: Iterable[Action]) -> None:
        """Go on where another process stopped, with the cards that are on the screen."""
        self._dealt_with = dict.fromkeys(dealt_with)
        for card in cards:
            self.on_action(card)

    def judge(self, question: Question, best: Result) -> Outcome:
        """Whether a passage tells the agent anything new. One that they ask for does."""
        if question.trigger == "asked":
            return "shown"

        def is_in_the_way(card: Shown) -> bool:
            if question.trigger == "moment":
                return card.passage_id == best.passage_id
            return card.is_answer and card.says(best)

        if any(is_in_the_way(card) for card in self._dealt_with):
            return "rejected"
        others = (card for card in self._shown.values() if card.key != question.key)
        return "duplicate" if any(is_in_the_way(card) for card in others) else "shown"

    def with_what_stands(self, question: Question, best: Result) -> Result:
        """A passage with the sentences that a card says of it for another question: that card will answer both."""
        said = {
            span
            for card in self._shown.values()
            if card.is_answer and card.key and card.passage_id == best.passage_id
            if card.is_shared or card.key != question.key
            for span in card.highlights
        }
        return replace(best, highlights=tuple(sorted({*best.highlights, *said}))) if best.highlights else best


def finding_of(question: Question, answer: Answer, screen: Screen) -> tuple[Outcome, Finding | None]:
    """Decide what is shown.

    Returns:
        What became of the question, and what its card says; None: no card.
    """
    is_asked = question.trigger == "asked"
    if answer.abstained:
        return "abstained", plain_finding(question, NOTHING_FOUND) if is_asked else None
    best = answer.results[0]
    outcome = screen.judge(question, best)
    if outcome != "shown":
        return outcome, None
    if question.trigger == "moment":
        # Its card says for itself what to do: what it needs is the one passage behind that, not further reading.
        cited = answer.results[:1]
    else:
        best = best if is_asked else screen.with_what_stands(question, best)
        cited = (best, *answer.results[1:])
    return outcome, Finding(
        key=question.key,
        title=title_of(best),
        body=extract(best),
        cites=tuple(citation(result) for result in cited),
        evidence=question.evidence,
        action_id=question.action_id,
        is_asked=is_asked,
    )


def plain_finding(question: Question, body: str) -> Finding:
    """What is said to an agent who asked, where there is no answer."""
    title = question.text if len(question.text) <= MAX_TITLE_CHARS else f"{question.text[: MAX_TITLE_CHARS - 1]}…"
    return Finding(key=question.key, title=title, body=body, cites=(), is_asked=True)


def unanswered(question: Question) -> Action:
    """A question that nothing answered, as it is kept for who writes the articles."""
    return Action(
        id=f"{UNANSWERED}{question.key}",
        revision=1,
        type="answer",
        title=question.text,
        state="expire",
        priority=0,
        ttl_ms=0,
        reason="unanswered",
        evidence=(question.evidence,) if question.evidence is not None else (),
    )


def title_of(result: Result) -> str:
    """Title of the article and of the part that answers, as the one line of a card."""
    article, _, part = result.title.partition(" › ")
    title = f"{article}: {part.rpartition(' › ')[2]}" if part else article
    return title if len(title) <= MAX_TITLE_CHARS else f"{title[: MAX_TITLE_CHARS - 1]}…"


def extract(result: Result) -> str:
    """The sentences that answer: a good answer without any model that writes."""
    said = [result.text[start:end] for start, end in result.highlights]
    return " … ".join(said) if said else result.text


def citation(result: Result) -> Citation:
    """A passage as a card cites it."""
    return Citation(
        source=result.source,
        title=result.title,
        text=result.text,
        score=round(result.score, 4),
        passage_id=result.passage_id,
        highlights=result.highlights,
    )
