"""Dense and lexical scores of one search, fused. Pure: numbers in, numbers out.

vectors of texts ─▶ passages, parts ─┐
terms of texts ───▶ BM25 of parts ───┴▶ evidence [parts, texts] ─▶ weighted by the conversation ─▶ parts in order
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.request import EmbeddingArray
from retrieval.generation import Generation

PASSAGE_WEIGHT = 0.5
PART_WEIGHTS = (0.2, 0.15, 0.15)
"""Of title, opening and whole of a part (`chunking.part_texts`). A sum of cosines is the cosine to a sum: one vector a
part holds all three, weighted."""
LEXICAL_WEIGHT = 0.08
"""Of √BM25. A sum of calibrated scores, not of ranks: ranks forget how good the best one is, and abstaining needs
exactly that. Measured as the weights of `conversation` are."""
DENSE_CANDIDATES = 512
LEXICAL_CANDIDATES = 64


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a search looks at closely.

    Attributes:
        passages: `[candidates] int64`, those of a part together.
        parts: `[parts] int64`, those of the passages.
        starts: `[parts] int64`, first candidate of each part.
    """

    passages: NDArray[np.int64]
    parts: NDArray[np.int64]
    starts: NDArray[np.int64]

    def and_then(self, more: Candidates) -> Candidates:
        """Return these, and others of other parts behind them."""
        return Candidates(
            np.concatenate([self.passages, more.passages]),
            np.concatenate([self.parts, more.parts]),
            np.concatenate([self.starts, more.starts + len(self.passages)]),
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """Scores of some texts.

    Attributes:
        passages: `[candidates, texts] float32`, cosine.
        parts: `[parts, texts] float32`, fused.
    """

    passages: NDArray[np.float32]
    parts: NDArray[np.float32]

    def and_then(self, more: Evidence) -> Evidence:
        """Return these scores, and those of more candidates behind them."""
        return Evidence(
            np.concatenate([self.passages, more.passages]),
            np.concatenate([self.parts, more.parts]),
        )


def lexical_scores(generation: Generation, weights: Sequence[Mapping[str, float]]) -> NDArray[np.float32]:
    """Return `[parts, texts] float32`, √BM25 of every part."""
    return np.sqrt(np.stack([generation.lexical.scores(terms) for terms in weights], axis=1))


def candidates(
    generation: Generation,
    vectors: EmbeddingArray,
    lexical: NDArray[np.float32],
    allowed: NDArray[np.bool_] | None,
    without: NDArray[np.int64] | None = None,
) -> Candidates:
    """Choose what is scored exactly: the nearest passages and the parts with the rarest common words.

    Args:
        generation: The base.
        vectors: `[texts, dims] float32`.
        lexical: `[parts, texts] float32`.
        allowed: `[passages] bool`; nothing else is looked at. None admits all.
        without: `[parts] int64`, parts of a large base that are left out, since they are chosen already.

    Returns:
        Candidates in ascending order.
    """
    content = generation.content
    chosen = generation.dense.candidates(vectors, allowed, DENSE_CANDIDATES)
    if generation.dense.kind != "flat" and len(chosen) < len(content.passages):
        total = lexical.sum(1)
        best = np.argpartition(total, -min(LEXICAL_CANDIDATES, len(total)))[-LEXICAL_CANDIDATES:]
        near = np.unique(np.concatenate([best[total[best] > 0], content.part_of[chosen]]))
        if without is not None:
            near = np.setdiff1d(near, without)
        spans = [np.arange(content.first_of[part], content.first_of[part + 1]) for part in near]
        chosen = np.concatenate(spans) if spans else chosen[:0]
        if allowed is not None:
            chosen = chosen[allowed[chosen]]
    if len(chosen) == len(content.passages):  # the usual small base: nothing to sort
        return Candidates(chosen, np.arange(content.num_parts), content.first_of[:-1])
    parts, starts = np.unique(content.part_of[chosen], return_index=True)
    return Candidates(chosen, parts.astype(np.int64), starts.astype(np.int64))


def score(
    generation: Generation, chosen: Candidates, vectors: EmbeddingArray, lexical: NDArray[np.float32]
) -> Evidence:
    """Score candidates against texts.

    Args:
        generation: The base.
        chosen: From `candidates`; not empty.
        vectors: `[texts, dims] float32`.
        lexical: `[parts of the base, texts] float32`.
    """
    all_passages = len(chosen.passages) == len(generation.dense.vectors)
    rows = generation.dense.vectors if all_passages else generation.dense.vectors[chosen.passages]
    all_parts = len(chosen.parts) == len(generation.part_vectors)
    part_rows = generation.part_vectors if all_parts else generation.part_vectors[chosen.parts]
    similar = (vectors @ rows.T).T  # a fifth faster than the other way round
    best = np.maximum.reduceat(similar, chosen.starts, axis=0)
    fused = PASSAGE_WEIGHT * best + part_rows @ vectors.T + LEXICAL_WEIGHT * lexical[chosen.parts]
    return Evidence(similar, fused.astype(np.float32))
