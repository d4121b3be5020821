"""Names that stand in a base's articles and that a recogniser may not know: products, plans, places. Pure.

text ─▶ sentences ─▶ runs of capitalised words, not at the beginning ─▶ those whose words nobody writes small
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

MAX_NAMES = 50
"""A vendor takes a hundred hints a call, and the policy's own come first."""
MAX_NAME_CHARS = 60

_SENTENCE = re.compile(r"(?<=[.!?:;])\s+|\n+")
_WORD = re.compile(r"[^\W_](?:[\w'’&-]*\w)?")


def names(texts: Sequence[str], limit: int = MAX_NAMES) -> tuple[str, ...]:
    """Return the names of a base, those in most texts first.

    Args:
        texts: Passages.
        limit: Most names.
    """
    small = {word for text in texts for word in _WORD.findall(text) if word.islower()}
    found: Counter[str] = Counter()
    for text in texts:
        found.update({name for name in _runs(text) if _is_name(name, small)})
    return tuple(name for name, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:limit])


def _runs(text: str) -> Iterator[str]:
    """Capitalised words beside each other; the first of a sentence is capitalised anyway and begins none."""
    for sentence in _SENTENCE.split(text):
        words = list(_WORD.finditer(sentence))
        run: list[re.Match[str]] = []
        for word in words[1:]:
            is_next = bool(run) and sentence[run[-1].end() : word.start()] == " "
            if run and not (is_next and word[0][0].isupper()):
                yield sentence[run[0].start() : run[-1].end()]
                run = []
            if word[0][0].isupper() and word[0] != "I":
                run.append(word)
        if run:
            yield sentence[run[0].start() : run[-1].end()]


def _is_name(name: str, small: Iterable[str]) -> bool:
    words = name.split(" ")
    return 2 <= len(name) <= MAX_NAME_CHARS and any(word.lower() not in small for word in words)
