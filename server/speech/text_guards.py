"""What a recogniser says when it should say nothing, and how to tell. Pure.

A small model that hears no words invents some: it falls into a loop or writes a stock phrase. The voice detector
keeps most such audio away; these checks catch what passes.
"""

from __future__ import annotations

import re

_MAX_REPEATS = 3
"""Copies in a row that people say: "no, no, no". A fourth is a loop, unless it is a number being read out."""

_MAX_PHRASE_WORDS = 8
_MAX_WORDS_PER_S = 7.0
"""Faster than anyone speaks on the telephone; an auctioneer reaches about 5."""

_STOCK_PHRASES = frozenset(("you", "transcript emily beynon"))
"""All that Moonshine tiny-en wrote for noise, hum, dial tones, music and clicks, and with confidence up to 0.97, so
that confidence does not tell. Nobody says just "you" and nothing else."""

_LETTER = re.compile(r"[^\W_]")


def collapse_loops(text: str) -> str:
    """Cut a phrase that is repeated more than three times in a row down to one copy.

    Digits and number words are left alone when the phrase is a single one of them: "zero zero zero zero" is a number.
    """
    words = text.split()
    keys = [re.sub(r"\W+", "", word).lower() for word in words]
    for size in range(1, _MAX_PHRASE_WORDS + 1):
        position = 0
        while position + size * (_MAX_REPEATS + 1) <= len(words):
            phrase = keys[position : position + size]
            end = position + size
            while keys[end : end + size] == phrase:
                end += size
            copies = (end - position) // size
            if copies > _MAX_REPEATS and not (size == 1 and _is_number(phrase[0])):
                del words[position + size : end]
                del keys[position + size : end]
            position += 1
    return " ".join(words)


def plausible_text(text: str, *, confidence: float, voiced_ms: int, is_capped: bool, min_confidence: float) -> str:
    """The text if it can have been said in that time with that confidence, else an empty string.

    Args:
        text: As decoded.
        confidence: 0 to 1, of the decode.
        voiced_ms: Length of the voice it was decoded from.
        is_capped: The decode hit its token limit.
        min_confidence: Below it nothing was said.
    """
    if confidence < min_confidence or not _LETTER.search(text):
        return ""
    if " ".join(re.sub(r"[^\w ]+", " ", text).lower().split()) in _STOCK_PHRASES:
        return ""
    collapsed = collapse_loops(text)
    too_fast = len(collapsed.split()) > 2 + _MAX_WORDS_PER_S * voiced_ms / 1000
    if too_fast or (is_capped and collapsed == text):
        return ""
    return collapsed


_NUMBER_WORDS = frozenset(
    ("zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "hundred")
)


def _is_number(key: str) -> bool:
    return key.isdigit() or key in _NUMBER_WORDS
