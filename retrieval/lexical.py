"""BM25 over parts: impacts computed at ingest, so that a search adds a few short rows of numbers.

terms ─▶ postings (part, impact) in one array, a slice a term ─▶ sum by part
Source: Robertson and Zaragoza, The Probabilistic Relevance Framework (2009), 3.4; eager scoring as in bm25s.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

K1 = 1.2
B = 0.6
TITLE_WEIGHT = 3
"""A word of the title counts as so many of the text."""

_TERMS = "terms.msgpack"
_ARRAYS = ("starts", "parts", "impacts")


@dataclass(frozen=True, slots=True)
class LexicalIndex:
    """The index of one generation, in memory or mapped.

    Attributes:
        rows: Row of each term.
        starts: `[terms + 1] int64`, slice of each term's postings.
        parts: `[postings] int32`, part of each posting.
        impacts: `[postings] float32`, what the term adds to the part.
        num_parts: Parts of the base.
    """

    rows: Mapping[str, int]
    starts: NDArray[np.int64]
    parts: NDArray[np.int32]
    impacts: NDArray[np.float32]
    num_parts: int

    @classmethod
    def build(cls, titles: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> LexicalIndex:
        """Index parts.

        Args:
            titles: Terms of each part's title and headings.
            texts: Terms of each part's text.
        """
        counts: list[Counter[str]] = []
        for title, text in zip(titles, texts, strict=True):
            counted = Counter(text)
            for term in title:
                counted[term] += TITLE_WEIGHT
            counts.append(counted)
        num = len(counts)
        lengths = np.array([sum(counted.values()) for counted in counts], np.float64)
        norms = K1 * (1 - B + B * lengths / max(lengths.mean() if num else 1.0, 1.0))
        postings: dict[str, list[tuple[int, float]]] = {}
        for part, counted in enumerate(counts):
            for term, times in counted.items():
                postings.setdefault(term, []).append((part, times * (K1 + 1) / (times + norms[part])))
        vocabulary = sorted(postings)
        starts = np.zeros(len(vocabulary) + 1, np.int64)
        starts[1:] = np.cumsum([len(postings[term]) for term in vocabulary])
        parts = np.empty(starts[-1], np.int32)
        impacts = np.empty(starts[-1], np.float32)
        for row, term in enumerate(vocabulary):
            entries = postings[term]
            idf = math.log(1 + (num - len(entries) + 0.5) / (len(entries) + 0.5))
            parts[starts[row] : starts[row + 1]] = [part for part, _ in entries]
            impacts[starts[row] : starts[row + 1]] = [idf * weight for _, weight in entries]
        return cls({term: row for row, term in enumerate(vocabulary)}, starts, parts, impacts, num)

    def scores(self, weights: Mapping[str, float]) -> NDArray[np.float32]:
        """Score every part.

        Args:
            weights: Terms of the query.

        Returns:
            `[parts] float32`, 0 where no term occurs.
        """
        found = np.zeros(self.num_parts, np.float32)
        for term, weight in weights.items():
            row = self.rows.get(term)
            if row is not None:
                span = slice(self.starts[row], self.starts[row + 1])
                found[self.parts[span]] += weight * self.impacts[span]  # a part occurs once a term: no lost update
        return found

    def knows(self, term: str) -> bool:
        """Whether any part holds the term."""
        return term in self.rows

    def save(self, folder: Path) -> None:
        """Write four files into a folder."""
        (folder / _TERMS).write_bytes(msgspec.msgpack.encode(list(self.rows)))
        for name in _ARRAYS:
            np.save(folder / f"lexical_{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path, num_parts: int) -> LexicalIndex:
        """Map what `save` wrote.

        Raises:
            OSError: If a file is missing.
            ValueError: If one is torn, or they do not fit together.
        """
        vocabulary = msgspec.msgpack.decode((folder / _TERMS).read_bytes(), type=list[str])
        starts, parts, impacts = (np.load(folder / f"lexical_{name}.npy", mmap_mode="r") for name in _ARRAYS)
        if len(starts) != len(vocabulary) + 1 or len(parts) != len(impacts) or starts[-1] != len(parts):
            raise ValueError("the lexical files do not fit together")
        rows = {term: row for row, term in enumerate(vocabulary)}
        return cls(rows, np.array(starts), np.asarray(parts), np.asarray(impacts), num_parts)
