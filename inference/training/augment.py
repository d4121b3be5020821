"""Turns typed text into what a recogniser writes of telephone speech: pure, seeded by the generator handed in.

Each change has its own probability (`Recipe`); the order is that of speech: words are chosen, spoken with fillers and
repairs, cut off by an interim, misheard, and written without case or marks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from inference.training.tasks import Examples, join

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
ONES = tuple(_SMALL.split(" "))
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

FILLERS = ("um", "uh", "er", "like", "you know", "well", "so", "okay", "i mean")
REPAIRS = ("no wait", "i mean", "sorry", "or rather", "uh")

CONFUSIONS: Mapping[str, str] = {
    "their": "there",
    "there": "their",
    "they're": "there",
    "your": "you're",
    "you're": "your",
    "to": "two",
    "too": "to",
    "for": "four",
    "four": "for",
    "by": "buy",
    "buy": "by",
    "new": "knew",
    "hear": "here",
    "here": "hear",
    "right": "write",
    "pin": "pen",
    "than": "then",
    "its": "it's",
    "fair": "fare",
    "bill": "bell",
    "fee": "the",
    "card": "car",
    "cheque": "check",
    "route": "root",
    "week": "weak",
    "wait": "weight",
    "whether": "weather",
    "mail": "male",
    "sale": "sail",
    "hour": "our",
    "our": "are",
    "an": "and",
    "and": "an",
    "in": "and",
    "can": "can't",
    "is": "as",
    "the": "a",
    "a": "the",
}
"""Words that telephone recognisers swap: sound-alikes and unstressed little words."""

CONTRACTIONS: Mapping[str, str] = {
    "going to": "gonna",
    "want to": "wanna",
    "got to": "gotta",
    "i am": "i'm",
    "do not": "don't",
    "does not": "doesn't",
    "cannot": "can't",
    "it is": "it's",
    "i have": "i've",
    "i would": "i'd",
    "i will": "i'll",
    "what is": "what's",
    "that is": "that's",
}

_NUMBER = re.compile(
    r"(?P<money>[$£€])?(?P<digits>\d[\d,]*)(?:\.(?P<cents>\d+))?(?P<ordinal>st|nd|rd|th)?(?P<percent>%)?"
)
_CLOCK = re.compile(r"\b(\d{1,2}):(\d{2})\b")
_MARKS = re.compile(r"[^\w\s'’]|_")
_MONEY = {"$": "dollars", "£": "pounds", "€": "euros"}
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    """How often each change is made, as probabilities of a text (`confuse`, `drop`: of a word)."""

    spell_numbers: float = 0.7
    contract: float = 0.3
    fill: float = 0.15
    repair: float = 0.08
    truncate: float = 0.08
    confuse: float = 0.02
    drop: float = 0.01
    strip_marks: float = 0.7


DEFAULT_RECIPE = Recipe()

FORMS_SEED = 11
"""Of what `as_on_calls` hears."""


def as_heard(text: str, rng: random.Random, recipe: Recipe = DEFAULT_RECIPE) -> str:
    """Write a text as a recogniser might. An empty text stays empty; no other becomes so."""
    if rng.random() < recipe.spell_numbers:
        text = spell_numbers(text)
    if rng.random() < recipe.strip_marks:
        text = strip_marks(text)
    words = text.split()
    if not words:
        return text
    if rng.random() < recipe.contract:
        words = contract(" ".join(words)).split()
    words = [word for word in words if rng.random() >= recipe.drop] or words
    words = [CONFUSIONS[word] if word in CONFUSIONS and rng.random() < recipe.confuse else word for word in words]
    if rng.random() < recipe.fill:
        words = fill(words, rng)
    if rng.random() < recipe.repair:
        words = repair(words, rng)
    if rng.random() < recipe.truncate:
        words = truncate(words, rng)
    return " ".join(words)


def strip_marks(text: str) -> str:
    """Lower case, no punctuation but apostrophes within words."""
    return " ".join(_MARKS.sub(" ", text.lower()).replace("’", "'").split())


def contract(text: str) -> str:
    """Shorten what speakers shorten: `i am going to` becomes `i'm gonna`."""
    padded = f" {text} "
    for long, short in CONTRACTIONS.items():
        padded = padded.replace(f" {long} ", f" {short} ")
    return padded.strip()


def fill(words: list[str], rng: random.Random) -> list[str]:
    """Put one or two fillers in, most often at the start."""
    result = list(words)
    for _ in range(rng.choice((1, 1, 2))):
        place = 0 if rng.random() < 0.5 else rng.randrange(len(result) + 1)
        result[place:place] = rng.choice(FILLERS).split()
    return result


def repair(words: list[str], rng: random.Random) -> list[str]:
    """Say one to three words twice, now and then with a repair between."""
    start = rng.randrange(len(words))
    said = words[start : start + rng.randint(1, 3)]
    between = rng.choice(REPAIRS).split() if rng.random() < 0.3 else []
    return words[:start] + said + between + words[start:]


def truncate(words: list[str], rng: random.Random) -> list[str]:
    """Cut the end off, as an interim does, and keep three words and six tenths at least."""
    return words[: max(min(3, len(words)), round(len(words) * rng.uniform(0.6, 1.0)))]


def spell_numbers(text: str) -> str:
    """Write numbers as words: amounts, clock times, ordinals, long digit runs one by one."""
    return _NUMBER.sub(_spell_match, _CLOCK.sub(_spell_clock, text))


def spell_integer(number: int) -> str:
    """Write 0 to 999,999 in words."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f" {ONES[number % 10]}" if number % 10 else "")
    if number < 1000:
        return f"{ONES[number // 100]} hundred" + (f" {spell_integer(number % 100)}" if number % 100 else "")
    return f"{spell_integer(number // 1000)} thousand" + (f" {spell_integer(number % 1000)}" if number % 1000 else "")


def _spell_clock(match: re.Match[str]) -> str:
    hour, minute = int(match[1]), int(match[2])
    if minute == 0:
        return f"{spell_integer(hour)} o'clock"
    return f"{spell_integer(hour)} {'oh ' if minute < 10 else ''}{spell_integer(minute)}"


def _spell_match(match: re.Match[str]) -> str:
    digits = match["digits"].replace(",", "")
    # People read long numbers, and those with a leading zero, digit by digit.
    one_by_one = (len(digits) > 4 and not match["money"]) or (digits[0] == "0" and len(digits) > 1) or len(digits) > 6
    words = " ".join(ONES[int(digit)] for digit in digits) if one_by_one else spell_integer(int(digits))
    if match["ordinal"] and not one_by_one:
        words = _ordinal(words)
    if match["money"]:
        words += f" {_MONEY[match['money']]}"
        words += f" {spell_integer(int(match['cents'][:2]))}" if match["cents"] else ""
    elif match["cents"]:
        words += " point " + " ".join(ONES[int(digit)] for digit in match["cents"])
    return words + (" percent" if match["percent"] else "")


def _ordinal(words: str) -> str:
    head, _, last = words.rpartition(" ")
    regular = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return f"{head} {_ORDINALS.get(last, regular)}".strip()


def as_on_calls(rows: Examples) -> Examples:
    """Put rows below each other as typed, without case and marks, and as a recogniser might have heard them."""
    rng = random.Random(FORMS_SEED)
    return join([rows, rows.rewritten(strip_marks), rows.rewritten(lambda text: as_heard(text, rng))])
