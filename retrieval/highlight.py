"""Which sentences of a passage answer: what an agent reads first, and what is said where no model writes answers.

passage ─▶ sentences ─▶ vectors, alone and under the passage's title ─▶ nearest to the question ─▶ spans of characters
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference.request import EmbeddingArray
from retrieval.chunking import SENTENCE_END

Span = tuple[int, int]
"""Start and end in characters of the passage's text."""

COMPANION_MARGIN = 0.15
"""A neighbour almost as near as the best sentence belongs to the answer: the steps of a procedure do, the next topic of
the paragraph does not (seen on the demo bases)."""
MAX_SENTENCES = 3


def sentences(text: str) -> tuple[Span, ...]:
    """Return the spans of the sentences of a passage, in order, without the spaces between them."""
    spans, start = [], 0
    for gap in SENTENCE_END.finditer(text):
        spans.append((start, gap.start()))
        start = gap.end()
    spans.append((start, len(text)))
    return tuple(span for span in spans if span[1] > span[0])


def sentence_texts(title_path: str, text: str, spans: Sequence[Span]) -> list[str]:
    """Return what the sentences' vectors are made of, twice as many: alone "replacing it costs 160 dollars" does not
    say what it is about, and under their title all sentences look alike.
    """
    said = [text[start:end] for start, end in spans]
    return [*said, *(f"{title_path}: {sentence}" for sentence in said)]


def choose(spans: Sequence[Span], vectors: EmbeddingArray, asked: EmbeddingArray) -> tuple[Span, ...]:
    """Choose the sentences that answer. Pure.

    Args:
        spans: Of the sentences.
        vectors: `[2 * sentences, dims] float32`, of `sentence_texts`.
        asked: `[texts, dims] float32`: the question, and where there is one the gist of its conversation.

    Returns:
        The nearest sentence and its neighbours that are nearly as near, joined where they touch; at most
        `MAX_SENTENCES`.
    """
    near = (vectors @ asked.T).mean(1).reshape(2, len(spans)).mean(0)
    best = int(np.argmax(near))
    first = last = best
    while last - first + 1 < MAX_SENTENCES:
        beside = [row for row in (first - 1, last + 1) if 0 <= row < len(spans)]
        row = max(beside, key=lambda row: float(near[row]), default=-1)
        if row < 0 or float(near[row]) < float(near[best]) - COMPANION_MARGIN:
            break
        first, last = min(first, row), max(last, row)
    return ((spans[first][0], spans[last][1]),)
