"""Texts for load: like what callers say in length and vocabulary, seeded, and never the same twice.

Lengths follow conversation: most utterances are short (mean about 11 words, 12 to 13 tokens), a few are long.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

_OPENERS = (
    "hi", "yeah", "okay so", "well", "um", "listen", "right", "no", "and", "so", "hello", "sorry", "look",
)  # fmt: skip
_SUBJECTS = (
    "i", "my husband", "my wife", "we", "the dealer", "somebody", "your colleague", "the website",
    "the bank", "the car",
    "this card", "the app",
    "the branch",
    "my account", "the payment", "the engine light", "the order",
)  # fmt: skip
_VERBS = (
    "need", "want", "tried", "called about", "asked for", "lost", "changed", "cancelled", "paid for", "received",
    "ordered", "checked", "never got", "forgot", "opened", "closed", "moved", "returned", "noticed", "reported",
)  # fmt: skip
_OBJECTS = (
    "an appointment", "the invoice", "a refund", "my password", "the oil change", "a new card", "the transfer",
    "a loan",
    "the warranty", "my address", "a statement", "the rental", "two tickets", "the fee", "a replacement", "the balance",
    "the tyre pressure light", "an estimate",
    "the delivery", "a standing order", "the brakes", "the interest rate",
)  # fmt: skip
_TAILS = (
    "last week", "on monday", "this morning", "for the second time", "and nobody called back", "before the trip",
    "because it was wrong", "if that is possible", "and i am not happy", "as soon as possible", "at the counter",
    "for my daughter", "with the old one", "in the city", "and it still does not work", "when i came home",
)  # fmt: skip


def unique_texts(seed: int) -> Iterator[str]:
    """Endless texts; the serial number that some carry makes each one new to any cache."""
    source = random.Random(seed)
    serial = 0
    seen: set[str] = set()
    while True:
        words = [source.choice(_SUBJECTS), source.choice(_VERBS), source.choice(_OBJECTS)]
        if source.random() < 0.4:
            words.insert(0, source.choice(_OPENERS))
        for _ in range(source.choices((0, 1, 2, 4), weights=(3, 5, 3, 1))[0]):
            words.append(source.choice(_TAILS))
        text = " ".join(words)
        if text in seen:
            serial += 1
            text = f"{text} number {serial}"
        seen.add(text)
        yield text
