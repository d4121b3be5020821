"""Word error rate: how far a transcript is from what was said. Pure."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve", "diez"),
}
_RESAMPLES = 1_000


def words_of(text: str, language: str = "en") -> list[str]:
    """Words without case, accents and punctuation; small numbers spelt out, since recognisers write both."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))
    words = re.sub(r"[^a-z0-9 ]+", " ", plain.replace("'", "")).split()
    names = _NUMBERS.get(language, ())
    return [names[int(word)] if word.isdecimal() and int(word) < len(names) else word for word in words]


def word_errors(said: Sequence[str], heard: Sequence[str]) -> int:
    """Insertions, deletions and substitutions between two word lists (Levenshtein)."""
    previous = list(range(len(heard) + 1))
    for row, word in enumerate(said, 1):
        current = [row]
        for column, other in enumerate(heard, 1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (word != other)))
        previous = current
    return previous[-1]


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Errors over words of many utterances.

    Attributes:
        utterances: How many.
        words: Said.
        rate: Errors over words.
        low: Of its 95 % interval, from resampled utterances.
        high: See `low`.
    """

    utterances: int
    words: int
    rate: float
    low: float
    high: float


def error_rate(counts: Sequence[tuple[int, int]], seed: int = 0) -> ErrorRate:
    """Rate of utterances, each given as its errors and its words.

    Raises:
        ValueError: There are no words.
    """
    words = sum(said for _, said in counts)
    if not words:
        raise ValueError("no words were said")
    draw = random.Random(seed)
    drawn = sorted(_rate(draw.choices(counts, k=len(counts))) for _ in range(_RESAMPLES))
    low, high = drawn[int(0.025 * _RESAMPLES)], drawn[int(0.975 * _RESAMPLES)]
    return ErrorRate(len(counts), words, _rate(counts), low, high)


def _rate(counts: Sequence[tuple[int, int]]) -> float:
    return sum(errors for errors, _ in counts) / max(1, sum(words for _, words in counts))
