"""Recogniser text made comparable, and patterns over it.

A recogniser writes "I'm", "I am", "twenty four" or "24" as it likes, and its punctuation is a guess. Text and patterns
are both brought to one form first: case, punctuation, contractions, fillers and small numbers no longer matter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from re import _parser  # type: ignore[attr-defined]  # the only reader of expressions that agrees with `re` itself
from typing import Any, Generic, TypeVar

_WORD = re.compile(r"[^\W_]+")
_INNER_APOSTROPHE = re.compile(r"(?<=\w)['\u2019\u02bc](?=\w)")
_E_MAIL = re.compile(r"\be[- ]mail")
_REPEATS = (_parser.MAX_REPEAT, _parser.MIN_REPEAT, _parser.POSSESSIVE_REPEAT)
_GAP_WORDS = 4
MAX_EXPRESSION_CHARS = 2000
"""A regular expression looks at so much of a turn, two minutes of talk: `.*` twice costs the square of what it sees, on
the event loop."""

_FILLERS = frozenset(["uh", "um", "uhm", "er", "erm", "hmm", "mm", "mhm", "ah", "oh"])
_CONTRACTIONS = {
    short: long.split()
    for short, long in {
        "im": "i am",
        "ive": "i have",
        "id": "i would",
        "youre": "you are",
        "youve": "you have",
        "youd": "you would",
        "youll": "you will",
        "weve": "we have",
        "theyre": "they are",
        "theyve": "they have",
        "thats": "that is",
        "whats": "what is",
        "wheres": "where is",
        "hows": "how is",
        "theres": "there is",
        "its": "it is",
        "cant": "can not",
        "cannot": "can not",
        "couldnt": "could not",
        "dont": "do not",
        "doesnt": "does not",
        "didnt": "did not",
        "wont": "will not",
        "wouldnt": "would not",
        "isnt": "is not",
        "arent": "are not",
        "wasnt": "was not",
        "werent": "were not",
        "havent": "have not",
        "hasnt": "has not",
        "hadnt": "had not",
        "shouldnt": "should not",
        "gonna": "going to",
        "wanna": "want to",
        "gotta": "got to",
        "ok": "okay",
    }.items()
}
_SMALL_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_UNITS = {word: number for number, word in enumerate(_SMALL_NUMBERS.split())}
_DECADES = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * number for number, word in enumerate(_DECADES.split(), start=2)}


def normalise(text: str) -> str:
    """Bring text to the one form in which words are compared: lower-case words, single spaces.

    Contractions are spelled out, numbers up to ninety-nine become digits, fillers go. Pure.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("%", " percent ")
    folded = _E_MAIL.sub("email", _INNER_APOSTROPHE.sub("", folded))
    words: list[str] = []
    tens = 0
    for word in _WORD.findall(folded):
        if word in _FILLERS:
            continue
        if tens:
            unit = _UNITS.get(word, 0)
            is_joined = 1 <= unit <= 9
            words.append(str(tens + unit if is_joined else tens))
            tens = 0
            if is_joined:
                continue
        if word in _TENS:
            tens = _TENS[word]
        elif word in _UNITS:
            words.append(str(_UNITS[word]))
        else:
            words.extend(_CONTRACTIONS.get(word, (word,)))
    if tens:
        words.append(str(tens))
    return " ".join(words)


@dataclass(frozen=True, slots=True)
class WordPattern:
    """A pattern over normalised words.

    Attributes:
        source: As written in the policy.
        expression: Compiled, to be searched in `normalise(text)`.
        starts: The words it can begin with, `*` after those that may go on; empty for a regular expression.
    """

    source: str
    expression: re.Pattern[str]
    starts: tuple[str, ...] = ()

    def matches(self, words: str) -> bool:
        """True if the pattern occurs in normalised text."""
        end = len(words) if self.starts else MAX_EXPRESSION_CHARS
        return self.expression.search(words, 0, end) is not None


def compile_pattern(source: str) -> WordPattern:
    """Compile one lexical pattern.

    Plain words match themselves at word boundaries. `word*` matches any word that begins so, `a|b` one of both,
    `...` up to four words in between. Between slashes stands a regular expression over the normalised text.

    Raises:
        ValueError: The pattern is empty, matches everything, is no valid expression, or one that could take for ever.
    """
    if len(source) > 2 and source.startswith("/") and source.endswith("/"):
        try:
            expression = re.compile(source[1:-1])
        except re.error as error:
            raise ValueError(f"not a valid regular expression: {error}") from None
        if expression.search("") is not None:
            raise ValueError("the expression matches the empty text")
        if _repeats_repeats(_parser.parse(source[1:-1])):
            raise ValueError("a repeat without end inside another can take for ever; give one an end, such as {0,9}")
        return WordPattern(source, expression)
    parts: list[str] = []
    starts: tuple[str, ...] = ()
    is_gap = True  # nothing precedes yet: a leading gap would mean nothing
    for token in source.split():
        if token in ("...", "…"):
            if is_gap:
                raise ValueError("a gap `...` stands between words")
            parts.append(rf"(?: \w+){{0,{_GAP_WORDS}}}")
            is_gap = True
            continue
        choices = _choices(token)
        starts = starts or tuple(choices)
        group = "|".join(re.escape(choice.rstrip("*")) + (r"\w*" if choice.endswith("*") else "") for choice in choices)
        parts.append((" " if parts else "") + (f"(?:{group})" if len(choices) > 1 else group))
        is_gap = False
    if is_gap:
        raise ValueError("the pattern has no words" if not parts else "a gap `...` stands between words")
    first = tuple(start if " " not in start else start.split()[0] for start in starts)
    return WordPattern(source, re.compile(rf"(?<!\w){''.join(parts)}(?!\w)"), first)


def _repeats_repeats(tree: Iterable[Any], *, is_inside: bool = False) -> bool:
    """Whether an endless repeat holds another: on text that nearly matches, the ways to share it double a word."""
    for operator, argument in tree:
        inside = is_inside
        if operator in _REPEATS and argument[1] is _parser.MAXREPEAT:
            if is_inside:
                return True
            inside = True
        if any(_repeats_repeats(inner, is_inside=inside) for inner in _subpatterns(argument)):
            return True
    return False


def _subpatterns(argument: Any) -> Iterator[Any]:
    """What lies inside a node of a parsed expression, whatever the node is."""
    if isinstance(argument, _parser.SubPattern):
        yield argument
    elif isinstance(argument, tuple | list):
        for part in argument:
            yield from _subpatterns(part)


def _choices(token: str) -> list[str]:
    """Normalise the alternatives of one token; `*` stays behind those that may go on."""
    choices = []
    for choice in token.split("|"):
        words = normalise(choice.rstrip("*"))
        if not words:
            raise ValueError(f"`{token}` holds no word that is compared")
        choices.append(words + ("*" if choice.endswith("*") else ""))
    return choices


Key = TypeVar("Key")


class PatternIndex(Generic[Key]):
    """Many patterns of many owners, searched at once: only those are tried whose first word occurs at all.

    Immutable. A policy has hundreds of patterns and a call a revision several times a second, so most of the work is
    done by looking the text's words up.

    Args:
        patterns: Owner and pattern; of one owner in the order in which a match is preferred.
    """

    def __init__(self, patterns: Iterable[tuple[Key, WordPattern]]) -> None:
        self._patterns = tuple(patterns)
        self._always: list[int] = []
        self._by_word: dict[str, list[int]] = {}
        prefixes: list[tuple[str, int]] = []
        for index, (_, pattern) in enumerate(self._patterns):
            if not pattern.starts:
                self._always.append(index)
            for start in pattern.starts:
                if start.endswith("*"):
                    prefixes.append((start[:-1], index))
                else:
                    self._by_word.setdefault(start, []).append(index)
        self._head_chars = min((len(prefix) for prefix, _ in prefixes), default=0)
        self._by_head: dict[str, list[tuple[str, int]]] = {}
        for prefix, index in prefixes:
            self._by_head.setdefault(prefix[: self._head_chars], []).append((prefix, index))

    def find(self, words: str) -> dict[Key, WordPattern]:
        """Return the first pattern of each owner that occurs.

        Args:
            words: From `normalise`.
        """
        candidates = set(self._always)
        by_word, by_head, head_chars = self._by_word, self._by_head, self._head_chars
        for word in words.split():
            if word in by_word:
                candidates.update(by_word[word])
            head = word[:head_chars]
            if head in by_head:
                candidates.update([index for prefix, index in by_head[head] if word.startswith(prefix)])
        found: dict[Key, WordPattern] = {}
        for index in sorted(candidates):
            owner, pattern = self._patterns[index]
            if owner not in found and pattern.matches(words):
                found[owner] = pattern
        return found
