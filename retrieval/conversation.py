"""Question and conversation → what to search for.

turns of both ─▶ vectors (the engine remembers those it has seen) ─▶ topicality of each ─▶ weights by recency
                                                                     the weightiest and the question ─▶ gist

Names, numbers, thanks and small talk say nothing of the topic and push nothing back, however many lie between; each
topical turn of the customer pushes older ones back a little, and "anything else?" pushes them back far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadQuery

MAX_TURNS = 16
"""Turns that are looked at."""
MAX_QUESTION_CHARS = 2000
MAX_TURN_CHARS = 600
MAX_CONTEXT_TURNS = 2000

QUESTION_WEIGHT = 1.0
GIST_WEIGHT = 2.5
AGENT_SHARE = 0.7
OLDER_TOPIC_SHARE = 0.55
BEFORE_BOUNDARY_SHARE = 0.2
BOUNDARY_COSINE = 0.65
TOPICAL_SCALE = 0.3
MIN_TOPICAL = 0.35
MIN_WEIGHT = 0.15
TOPIC_TURNS = 8
"""The latest that say the topic; each has a vector already."""
GIST_TURNS = 3
"""The weightiest of these, which are read together with the question: that is a pass of the encoder. All of this was
chosen together on spoken questions to trades left out in turn, and over customer-service guidelines in five layouts
(docs/knowledge.md)."""

TYPED_CONTEXT_SHARE = 0.3
"""How much a conversation counts for what an agent types, who names what they look for where a customer says "that". Of
126 direct questions typed in a call about something else 0.93 are found among three with it (1: 0.70; without the call
0.97), of 57 that lean on their call 0.84 (1: 0.88); the sets that are not held out, docs/knowledge.md."""

_ROLES = {
    "customer": "customer", "caller": "customer", "user": "customer", "client": "customer",
    "agent": "agent", "assistant": "agent", "system": "agent", "action": "agent", "bot": "agent",
}  # fmt: skip
"""What transcripts call the two sides; there is no third."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the conversation before the question.

    Attributes:
        speaker: `customer` or `agent`.
        text: What was said.
    """

    speaker: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """A question in its conversation, not yet understood.

    Attributes:
        question: As asked.
        turns: The latest turns before it, oldest first, at most `MAX_TURNS`.
        context_share: How much they count beside the question; 1 for one that was said.
    """

    question: str
    turns: tuple[Turn, ...] = ()
    context_share: float = 1.0

    @property
    def texts(self) -> tuple[str, ...]:
        """What has to be embedded, the question first."""
        return (self.question, *(turn.text for turn in self.turns))


@dataclass(frozen=True, slots=True)
class Topic:
    """What a conversation is about.

    Attributes:
        turns: Numbers of the turns that say it, oldest first.
        weights: `[turns] float32`, how much each of them counts.
        gist: The weightiest of these turns and the question as one text; empty without turns.
    """

    turns: tuple[int, ...] = ()
    weights: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    gist: str = ""


def build_query(question: str, context: Sequence[Turn] = (), context_share: float = 1.0) -> Query:
    """Choose what of a conversation is searched for.

    Args:
        question: The question; may be any utterance.
        context: Turns before it, oldest first; the question itself may be the last of them.
        context_share: As `Query`.

    Raises:
        BadQuery: If the question has no word, or is too long.
    """
    question = " ".join(question.split())
    if not any(map(str.isalnum, question)):  # "?" would be answered with what the conversation is about
        raise BadQuery("expected a question", field="question")
    if len(question) > MAX_QUESTION_CHARS:
        raise BadQuery(f"longer than {MAX_QUESTION_CHARS} characters", field="question")
    turns = [Turn(turn.speaker, " ".join(turn.text.split())[:MAX_TURN_CHARS]) for turn in context[-2 * MAX_TURNS :]]
    turns = [turn for turn in turns if turn.text]
    last = max((number for number, turn in enumerate(turns) if turn.speaker == "customer"), default=-1)
    if last >= 0 and turns[last].text == question:
        turns.pop(last)
    return Query(question, tuple(turns[-MAX_TURNS:]), context_share)


def parse_context(value: object) -> tuple[Turn, ...]:
    """Read a conversation as commands and files give it: turns as objects or as plain strings of the customer.

    Args:
        value: Decoded JSON: a list of `{"speaker", "text"}`, of strings, or a single string; None for none.

    Raises:
        BadQuery: With the path of the wrong value.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise BadQuery("expected a list of turns", field="context")
    turns = []
    for number, entry in enumerate(value[-MAX_CONTEXT_TURNS:], max(0, len(value) - MAX_CONTEXT_TURNS)):
        if isinstance(entry, str):
            turns.append(_labelled(entry))
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise BadQuery("expected an object with `speaker` and `text`", field=f"context[{number}]")
        speaker = entry.get("speaker", "customer")
        role = _ROLES.get(speaker.strip().lower()) if isinstance(speaker, str) else None
        if role is None:  # taken for somebody's, its words would count as that side's
            raise BadQuery(f"expected one of {', '.join(_ROLES)}", field=f"context[{number}].speaker")
        turns.append(Turn(role, entry["text"]))
    return tuple(turns)


def decode_context(text: str) -> tuple[Turn, ...]:
    """Read a conversation from JSON text.

    Raises:
        BadQuery: If it is no JSON, or `parse_context` refuses it.
    """
    try:
        return parse_context(msgspec.json.decode(text) if text.strip() else None)
    except msgspec.DecodeError as error:
        raise BadQuery("is no valid JSON", field="context") from error


def weigh_turns(query: Query, topicality: NDArray[np.float32], boundary: NDArray[np.float32]) -> Topic:
    """Decide which turns say what the conversation is about. Pure.

    Args:
        query: The question and its turns.
        topicality: `[turns] float32`, above 0 for a turn that carries a topic.
        boundary: `[turns] float32`, cosine of each turn to the nearest phrase that ends a topic.
    """
    if not query.turns:
        return Topic()
    share = 1.0 / (1.0 + np.exp(-topicality / TOPICAL_SCALE))
    weights = np.zeros(len(query.turns), np.float32)
    room = 1.0
    for number in range(len(query.turns) - 1, -1, -1):
        if boundary[number] > BOUNDARY_COSINE:
            room *= BEFORE_BOUNDARY_SHARE
            continue
        is_agent = query.turns[number].speaker != "customer"
        weights[number] = room * share[number] * (AGENT_SHARE if is_agent else 1.0)
        if not is_agent:  # agents repeat and ask back: no new topic
            room *= 1.0 - float(share[number]) * (1.0 - OLDER_TOPIC_SHARE)
    kept = np.flatnonzero((weights > MIN_WEIGHT) & (share > MIN_TOPICAL))[-TOPIC_TURNS:]
    if not len(kept):  # told in words unlike any other: the likeliest turn is better than none
        kept = np.array([int(np.argmax(weights))])
    weightiest = np.sort(kept[np.argsort(-weights[kept], kind="stable")[:GIST_TURNS]])
    gist = ". ".join((*(query.turns[number].text for number in weightiest), query.question))
    return Topic(tuple(kept.tolist()), weights[kept], gist)


def _labelled(line: str) -> Turn:
    """Read `customer: …` and `agent: …`; a line without a label is the customer's."""
    head, colon, rest = line.partition(":")
    role = _ROLES.get(head.strip().lower()) if colon else None
    return Turn(role, rest.strip()) if role is not None else Turn("customer", line)
