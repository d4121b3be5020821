"""How far a transcript is from what was said."""

from __future__ import annotations

import re


def words_of(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9 ]+", " ", text.lower().replace("'", "")).split()


def word_errors(said: list[str], heard: list[str]) -> int:
    """Insertions, deletions and substitutions between two word lists (Levenshtein)."""
    previous = list(range(len(heard) + 1))
    for row, word in enumerate(said, 1):
        current = [row]
        for column, other in enumerate(heard, 1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (word != other)))
        previous = current
    return previous[-1]
