from __future__ import annotations

import pytest

from server.speech.word_errors import error_rate, word_errors, words_of


def test_case_accents_punctuation_and_small_numbers_do_not_count() -> None:
    assert words_of("It's 8 o'clock, PRESS one!") == ["its", "eight", "oclock", "press", "one"]
    assert words_of("Marque el 3, por favor: ¿contraseña?", "es") == [
        "marque",
        "el",
        "tres",
        "por",
        "favor",
        "contrasena",
    ]
    assert words_of("1984") == ["1984"]


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [("a b c", "a b c", 0), ("a b c", "a c", 1), ("a b", "a x b", 1), ("a b", "b a", 2), ("", "a b", 2), ("a", "", 1)],
)
def test_errors_are_insertions_deletions_and_substitutions(said: str, heard: str, errors: int) -> None:
    assert word_errors(said.split(), heard.split()) == errors


def test_a_rate_weighs_words_and_has_an_interval() -> None:
    rate = error_rate([(0, 10)] * 50 + [(5, 10)] * 50)
    assert (rate.utterances, rate.words, rate.rate) == (100, 1_000, 0.25)
    assert 0.15 < rate.low < 0.25 < rate.high < 0.35
    sure = error_rate([(1, 10)] * 20)
    assert sure.low == sure.high == 0.1


def test_without_words_there_is_no_rate() -> None:
    with pytest.raises(ValueError, match="no words"):
        error_rate([(0, 0)])
