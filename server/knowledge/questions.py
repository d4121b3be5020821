"""When to ask the knowledge base, and what: one call's questions. Pure.

interims say twice that it is a question ─▶ Search, tentative ──┬─ the final has the same words ─▶ Confirm
final is a question ─▶ Search                                   └─ it is none ─▶ Withdraw
agent says that they look it up ─▶ Search for what the customer said last
a card wants a passage, the agent asks ─▶ Search
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from retrieval.conversation import MAX_QUESTION_CHARS, Turn
from server.policy.rules import Assist
from server.policy.words import normalise
from server.wire.ids import UtteranceId
from server.wire.publication import Action, Annotation, Evidence
from server.wire.utterance import Utterance

Trigger = Literal["question", "checking", "moment", "asked"]

MAX_TURNS = 64
"""Finals that are remembered: more than a query looks at, since only a part of them is the customer's."""
STABLE_REVISIONS = 2
"""Interims in a row that have to be questions before one is searched for; as a moment's trigger `stable`."""
MIN_CHECKED_WORDS = 3
"""Shorter words of the customer ("yes please") are nothing that an agent looks up."""


@dataclass(frozen=True, slots=True)
class Question:
    """Something to be searched for.

    Attributes:
        key: Names it within its call; a newer question of the same key replaces it.
        text: As asked.
        context: What was said before, oldest first.
        trigger: Why it is asked.
        evidence: The words that asked; None where the agent typed them.
        action_id: Card that wants a passage.
    """

    key: str
    text: str
    context: tuple[Turn, ...]
    trigger: Trigger
    evidence: Evidence | None = None
    action_id: str = ""


@dataclass(frozen=True, slots=True)
class Search:
    """Search for it. Tentative: the words are not final, and nothing is shown before `Confirm`."""

    question: Question
    is_tentative: bool = False


@dataclass(frozen=True, slots=True)
class Confirm:
    """The final has the words that were searched for: show what was found. `question` has the final's evidence."""

    question: Question


@dataclass(frozen=True, slots=True)
class Withdraw:
    """It was no question: stop searching, take its card back."""

    key: str


Decision = Search | Confirm | Withdraw


class QuestionsState(msgspec.Struct, frozen=True, array_like=True):
    """What was asked, for another process to go on with.

    Attributes:
        asked: Utterances whose words were searched for, with a digest of those words.
        num_asked: Questions that the agent typed.
    """

    asked: dict[str, bytes] = {}
    num_asked: int = 0


class _Heard(msgspec.Struct, gc=False):
    """What is known of an utterance: interims that were questions in a row, and a digest of the words searched for."""

    streak: int = 0
    words: bytes = b""
    was_final: bool = False


class Questions:
    """The questions of one call. One owner.

    Args:
        assist: When to ask.
    """

    def __init__(self, assist: Assist) -> None:
        self._assist = assist
        self._turns: OrderedDict[UtteranceId, Utterance] = OrderedDict()
        self._heard: OrderedDict[UtteranceId, _Heard] = OrderedDict()
        self._num_asked = 0

    def on_utterance(self, utterance: Utterance) -> list[Decision]:
        """Take in a revision, before its annotations."""
        if not utterance.is_final:
            return []
        name = utterance.utterance_id
        if not utterance.text:
            self._turns.pop(name, None)
            heard = self._heard.pop(name, None)
            return [Withdraw(name)] if heard is not None and heard.words else []
        is_new = name not in self._turns
        self._turns[name] = utterance
        while len(self._turns) > MAX_TURNS:
            self._turns.popitem(last=False)
        if is_new and utterance.speaker == "agent" and "checking" in self._assist.on:
            return self._on_agent(utterance)
        return []

    def on_annotation(self, annotation: Annotation, utterance: Utterance) -> list[Decision]:
        """Take in `QUESTION_OUTPUT` of a revision; only the customer's questions matter."""
        if "question" not in self._assist.on or annotation.value is None or utterance.speaker != "customer":
            return []
        heard = self._heard.setdefault(utterance.utterance_id, _Heard())
        while len(self._heard) > MAX_TURNS:
            self._heard.popitem(last=False)
        if heard.was_final and not utterance.is_final:
            return []
        heard.was_final = utterance.is_final
        heard.streak = heard.streak + 1 if self._is_question(annotation) else 0
        if not heard.streak:
            was_searched, heard.words = bool(heard.words), b""
            return [Withdraw(utterance.utterance_id)] if was_searched else []
        words = _digest(utterance.text)
        question = self._question(utterance, "question", annotation)
        if utterance.is_final:
            is_known, heard.words = words == heard.words, words
            return [Confirm(question)] if is_known else [Search(question)]
        if heard.streak < STABLE_REVISIONS or words == heard.words:
            return []
        heard.words = words
        return [Search(question, is_tentative=True)]

    def on_card(self, action: Action) -> list[Decision]:
        """Take in a card that wants a passage beside its own words."""
        if not action.evidence:
            return []
        evidence = action.evidence[-1]
        utterance = self._turns.get(UtteranceId(evidence.utterance_id))
        context = self._before(utterance.start_ms if utterance is not None else evidence.start_ms)
        key = f"card:{action.id}"
        return [Search(Question(key, evidence.text, context, "moment", evidence, action.id))]

    def ask(self, text: str) -> Search:
        """Take in what the agent typed."""
        self._num_asked += 1
        context = tuple(Turn(turn.speaker, turn.text) for turn in self._turns.values())
        return Search(Question(f"ask:{self._num_asked}", text[:MAX_QUESTION_CHARS], context, "asked"))

    # Handing a call over

    def state(self, but: Collection[str] = ()) -> QuestionsState:
        """What was asked, but for these utterances; digests, no words."""
        heard = self._heard.items()
        asked = {str(name): one.words for name, one in heard if one.words and one.was_final and name not in but}
        return QuestionsState(asked, self._num_asked)

    def restore(self, state: QuestionsState, said: Iterable[Utterance]) -> None:
        """Go on after what was asked and said before, in its order."""
        for name, words in state.asked.items():
            self._heard[UtteranceId(name)] = _Heard(words=words, was_final=True)
        for utterance in said:
            self._turns[utterance.utterance_id] = utterance
        while len(self._turns) > MAX_TURNS:
            self._turns.popitem(last=False)
        self._num_asked = state.num_asked

    # Inside

    def _on_agent(self, utterance: Utterance) -> list[Decision]:
        words = normalise(utterance.text)
        if not any(pattern.matches(words) for pattern in self._assist.checking):
            return []
        said = [t for t in self._turns.values() if t.speaker == "customer" and t.start_ms <= utterance.start_ms]
        said = [t for t in said if len(t.text.split()) >= MIN_CHECKED_WORDS]
        if not said:
            return []
        last = max(said, key=lambda turn: turn.start_ms)
        heard = self._heard.setdefault(last.utterance_id, _Heard())
        searched = _digest(last.text)
        if heard.words == searched:
            return []  # it was searched for when it was said
        heard.words, heard.was_final = searched, True
        return [Search(self._question(last, "checking"))]

    def _is_question(self, annotation: Annotation) -> bool:
        if self._assist.min_score is not None:
            return (annotation.score or 0.0) >= self._assist.min_score
        return bool(annotation.value.get("is_question"))

    def _question(self, utterance: Utterance, trigger: Trigger, annotation: Annotation | None = None) -> Question:
        evidence = Evidence(
            utterance_id=utterance.utterance_id,
            text=utterance.text,
            start_ms=utterance.start_ms,
            end_ms=utterance.end_ms,
            speaker=utterance.speaker,
            rule=f"assist.on.{trigger}",
            score=annotation.score if annotation is not None else None,
            model=annotation.model if annotation is not None else "",
            version=annotation.version if annotation is not None else 0,
            is_final=utterance.is_final,
        )
        context = self._before(utterance.start_ms)
        return Question(utterance.utterance_id, utterance.text[:MAX_QUESTION_CHARS], context, trigger, evidence)

    def _before(self, start_ms: int) -> tuple[Turn, ...]:
        """Finals that began before, in the order in which they did: the two sides' finals may arrive crosswise."""
        before = sorted((t for t in self._turns.values() if t.start_ms < start_ms), key=lambda turn: turn.start_ms)
        return tuple(Turn(turn.speaker, turn.text) for turn in before)


def _digest(text: str) -> bytes:
    """Of the words; empty where there are none."""
    words = normalise(text)
    return hashlib.blake2b(words.encode(), digest_size=8).digest() if words else b""
