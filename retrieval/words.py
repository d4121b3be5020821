"""Text → terms of the lexical index: lower case, English function words out, endings off, callers' words for things.

Callers do not use the words of guidelines ("the postage", "my money back"); `synonyms.yaml` says what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import yaml

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_SYNONYMS = Path(__file__).with_name("synonyms.yaml")

FUNCTION_WORDS = frozenset(
    """
    a about actually again all also am an and any anything are as ask at back be because been before being but by
    call can can't cannot could couldn't did didn't do does doesn't doing don't done each else even every few for
    from get getting give go goes going gonna good got had has hasn't have haven't having he hello help her here hi
    him his how i i'd i'll i'm i've if in into is isn't it it's its just keep know let like little look looking lot
    make making many may maybe me mean might more most much must my myself need never new no not now of off oh ok
    okay on once one ones only or other our out over own please put really right said same say saying says see she
    should since so some somebody someone something sorry still such sure take taking tell than thank thanks that
    that's the their them then there there's these they they're thing things think this those though through to
    today told too try trying uh um until up us use very want wanted wants was wasn't way we we're well were what
    what's when where where's which while who why will with without won't work would wouldn't yeah yep yes yet you
    you're your yours
    far long often old soon
    """.split()  # noqa: SIM905 a list of 200 strings is unreadable
)
"""Words that say nothing of a topic, in questions as callers ask them."""

_ENDINGS = (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""))


def terms(text: str) -> list[str]:
    """Return the terms of a text in order, repeated as in the text."""
    return [
        stem(word)
        for word in _WORD.findall(text.lower().replace("’", "'"))
        if word not in FUNCTION_WORDS and (len(word) > 1 or word.isdigit())
    ]


def query_terms(text: str) -> dict[str, float]:
    """Return the terms of a question with weights: its own, and what callers mean by them."""
    weights = dict.fromkeys(terms(text), 1.0)
    words = _WORD.findall(text.lower().replace("’", "'"))
    padded, synonyms = f" {' '.join(words)} ", _synonyms()
    for word in dict.fromkeys(words):
        for phrase, meant in synonyms.get(word, ()):
            if phrase in padded:
                for term in meant:
                    weights[term] = 1.0
    return weights


def merged(said: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the terms of several texts as those of one."""
    return {term: weight for weights in said for term, weight in weights.items()}


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return a word without its inflection; a light stemmer, equal on both sides is all it has to be."""
    word = word.removesuffix("'s")
    for ending, replacement in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + replacement
            break
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word


@lru_cache(maxsize=1)
def _synonyms() -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """Phrases between blanks with the terms they mean, by their first word: few are looked for in a text."""
    table = yaml.safe_load(_SYNONYMS.read_text("utf-8"))
    by_first: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for meant, phrases in table.items():
        meant_terms = tuple(dict.fromkeys(terms(meant)))
        for phrase in phrases:
            by_first.setdefault(phrase.split()[0], []).append((f" {phrase} ", meant_terms))
    return by_first
