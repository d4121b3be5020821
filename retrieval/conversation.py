"""Question and conversation → what to search for.

turns ─▶ vectors (the engine remembers those it has seen) ─▶ topicality of each turn ─▶ weights by recency ─▶ gist

A turn is topical when the base is nearer to it than small talk and particulars are. Each topical turn pushes older
ones back: after "my refund", an answered question about boots no longer counts, whatever lies between counts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadQuery

MAX_TURNS = 8
"""Customer turns that are looked at: with the question 9 rows, one batch of the encoder."""
MAX_QUESTION_CHARS = 2000
MAX_TURN_CHARS = 600
MAX_CONTEXT_TURNS = 2000

QUESTION_WEIGHT = 1.4
GIST_WEIGHT = 3.0
OLDER_TOPIC_SHARE = 0.35
TOPICAL_MARGIN = 0.11
TOPICAL_SCALE = 0.07
GIST_TURNS = 3
GIST_MIN_WEIGHT = 0.3
"""Measured together in benchmarks/retrieval: flat around these values."""


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
        turns: The customer's latest turns before it, oldest first, at most `MAX_TURNS`.
    """

    question: str
    turns: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """What has to be embedded, the question first."""
        return (self.question, *self.turns)


@dataclass(frozen=True, slots=True)
class Topic:
    """What a conversation is about, seen from one base.

    Attributes:
        weights: `[turns] float32`, how much each turn counts.
        gist: Topical turns and question as one text; empty without turns.
    """

    weights: NDArray[np.float32]
    gist: str


def build_query(question: str, context: Sequence[Turn] = ()) -> Query:
    """Choose what of a conversation is searched for.

    Args:
        question: The question; may be any utterance.
        context: Turns before it, oldest first; the question itself may be the last of them.

    Raises:
        BadQuery: If the question is empty or too long.
    """
    question = " ".join(question.split())
    if not question:
        raise BadQuery("expected a question", field="question")
    if len(question) > MAX_QUESTION_CHARS:
        raise BadQuery(f"longer than {MAX_QUESTION_CHARS} characters", field="question")
    said = [" ".join(turn.text.split())[:MAX_TURN_CHARS] for turn in context if turn.speaker == "customer"]
    said = [text for text in said if text]
    if said and said[-1] == question:
        said.pop()
    return Query(question, tuple(said[-MAX_TURNS:]))


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
    for number, entry in enumerate(value[-MAX_CONTEXT_TURNS:]):
        if isinstance(entry, str):
            turns.append(_labelled(entry))
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise BadQuery("expected an object with `speaker` and `text`", field=f"context[{number}]")
        speaker = entry.get("speaker", "customer")
        if not isinstance(speaker, str):
            raise BadQuery("expected a string", field=f"context[{number}].speaker")
        turns.append(Turn(_role(speaker), entry["text"]))
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


def weigh_turns(
    query: Query, nearest: NDArray[np.float32], beside: NDArray[np.float32], terms_known: Sequence[bool]
) -> Topic:
    """Decide which turns say what the conversation is about. Pure.

    Args:
        query: The question and its turns.
        nearest: `[turns] float32`, cosine of each turn to the nearest passage of the base.
        beside: `[turns] float32`, cosine of each to the nearest small talk or particular.
        terms_known: Whether the turn has any term of the base.
    """
    weights = np.zeros(len(query.turns), np.float32)
    kept: list[str] = []
    room = 1.0
    for number in range(len(query.turns) - 1, -1, -1):
        lead = float(nearest[number] - beside[number]) + TOPICAL_MARGIN
        topical = 1.0 / (1.0 + float(np.exp(-lead / TOPICAL_SCALE)))
        if not terms_known[number]:
            topical *= 0.5
        weights[number] = room * topical
        if weights[number] > GIST_MIN_WEIGHT and len(kept) < GIST_TURNS:
            kept.insert(0, query.turns[number])
        room *= 1.0 - topical * (1.0 - OLDER_TOPIC_SHARE)
    if query.turns and not kept:  # told in words that the base lacks: the likeliest turn is better than none
        kept.append(query.turns[int(np.argmax(weights))])
    return Topic(weights, ". ".join((*kept, query.question)) if kept else "")


def _labelled(line: str) -> Turn:
    """Read `customer: …` and `agent: …`; a line without a label is the customer's."""
    head, colon, rest = line.partition(":")
    return Turn(_role(head), rest.strip()) if colon and head.strip().lower() in _ROLES else Turn("customer", line)


_ROLES = {
    "customer": "customer", "caller": "customer", "user": "customer", "client": "customer",
    "agent": "agent", "assistant": "agent", "system": "agent", "action": "agent", "bot": "agent",
}  # fmt: skip


def _role(speaker: str) -> str:
    return _ROLES.get(speaker.strip().lower(), speaker)
