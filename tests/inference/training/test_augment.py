from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.training.augment import (
    Recipe,
    as_heard,
    contract,
    fill,
    repair,
    spell_integer,
    spell_numbers,
    strip_marks,
    truncate,
)

NOTHING = Recipe(*[0.0] * 8)
EVERYTHING = Recipe(*[1.0] * 8)


@pytest.mark.parametrize(
    ("typed", "spoken"),
    [
        ("2 tickets", "two tickets"),
        ("at 7:30", "at seven thirty"),
        ("at 9:05", "at nine oh five"),
        ("at 8:00", "at eight o'clock"),
        ("on the 21st", "on the twenty first"),
        ("the 30th and the 12th", "the thirtieth and the twelfth"),
        ("$45", "forty five dollars"),
        ("£3.20", "three pounds twenty"),
        ("5%", "five percent"),
        ("2.5 hours", "two point five hours"),
        ("account 4407189", "account four four zero seven one eight nine"),
        ("1,250 miles", "one thousand two hundred fifty miles"),
        ("pin 007", "pin zero zero seven"),
        ("nothing to spell", "nothing to spell"),
    ],
)
def test_numbers_are_spelt_as_people_say_them(typed: str, spoken: str) -> None:
    assert spell_numbers(typed) == spoken


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (600, "six hundred"),
        (999_999, "nine hundred ninety nine thousand nine hundred ninety nine"),
    ],
)
def test_integers_in_words(number: int, words: str) -> None:
    assert spell_integer(number) == words


def test_marks_go_and_apostrophes_stay() -> None:
    assert strip_marks("I'm NOT happy, really… (you’re late)!") == "i'm not happy really you're late"


def test_contractions_respect_word_borders() -> None:
    assert contract("i am going to tell ami amelia") == "i'm gonna tell ami amelia"


def test_a_recipe_of_nothing_changes_nothing_but_blanks() -> None:
    assert as_heard("Two  words, I'd say.", random.Random(0), NOTHING) == "Two words, I'd say."


@given(st.text(), st.integers())
def test_same_seed_same_words_and_no_text_vanishes(text: str, seed: int) -> None:
    heard = as_heard(text, random.Random(seed), EVERYTHING)
    assert heard == as_heard(text, random.Random(seed), EVERYTHING)
    if strip_marks(spell_numbers(text)):
        assert heard


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "g"]), min_size=1, max_size=20), st.integers())
def test_speech_keeps_the_words_it_started_from(words: list[str], seed: int) -> None:
    rng = random.Random(seed)
    cut = truncate(words, rng)
    assert cut == words[: len(cut)]
    assert len(cut) >= min(3, len(words))
    assert len(cut) >= round(0.6 * len(words))
    for changed in (fill(words, rng), repair(words, rng)):
        rest = iter(changed)
        assert all(word in rest for word in words)  # in order, others between
