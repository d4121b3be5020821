from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.policy.words import PatternIndex, compile_pattern, normalise


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'm, uh, calling about my CHECK-ENGINE light.", "i am calling about my check engine light"),
        ("It can’t wait", "it can not wait"),
        ("I cannot wait", "i can not wait"),
        ("Twenty-four dollars and 50%", "24 dollars and 50 percent"),
        ("twenty zero", "20 0"),
        ("fifty", "50"),
        ("thirty ten", "30 10"),
        ("my e-mail", "my email"),
        ("…!?", ""),
        ("¿Está lista la café?", "está lista la café"),
    ],
)
def test_recogniser_text_takes_one_form(text: str, words: str) -> None:
    assert normalise(text) == words


@given(st.text())
def test_normal_form_is_stable(text: str) -> None:
    once = normalise(text)
    assert once == normalise(once.upper()) or not once.isascii()
    assert "  " not in once
    assert once == once.strip()


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("check engine", "The check-engine light", True),
        ("check engine", "I checked engines", False),
        ("light* ... on", "the lights have come on", True),
        ("light* ... on", "the light and then five or six words later on", False),
        ("lost|stolen card", "a stolen card", True),
        ("lost|stolen card", "the lost cards", False),
        ("don't|doesn't work", "it does not work", True),
        ("/\\bcharged? (me )?(2|two) times?/", "they charge two times", True),
        ("24 hours", "within twenty four hours", True),
        ("art", "the party", False),
        ("art", "party art", True),
    ],
)
def test_patterns(pattern: str, text: str, expected: bool) -> None:
    assert compile_pattern(pattern).matches(normalise(text)) is expected


@pytest.mark.parametrize("pattern", ["", "   ", "...", "... on", "on ...", "on ... ... off", "!!", "um", "/(/", "/a*/"])
def test_bad_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        compile_pattern(pattern)


@given(st.lists(st.sampled_from(["oil", "light", "is", "still", "on", "the", "brake"]), min_size=1, max_size=6))
def test_a_plain_pattern_finds_itself_in_any_company(words: list[str]) -> None:
    pattern = compile_pattern(" ".join(words))
    assert pattern.matches(normalise("Well, " + " ".join(words).upper() + ", you know."))
    assert not pattern.matches(normalise("x" + " ".join(words)))


TOKENS = ("oil", "light*", "oil|brake", "li*", "don't", "...", "/\\d+/", "24", "engine")


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.sampled_from(TOKENS), min_size=1, max_size=3)), max_size=8),
    st.lists(st.sampled_from(("oil", "lights", "brake", "do", "not", "24", "engine", "x")), max_size=8),
)
def test_an_index_finds_what_its_patterns_find(sources: list[tuple[int, list[str]]], text: list[str]) -> None:
    patterns = []
    for owner, source in sources:
        with contextlib.suppress(ValueError):
            patterns.append((owner, compile_pattern(" ".join(source))))
    words = normalise(" ".join(text))
    expected = {owner: pattern for owner, pattern in reversed(patterns) if pattern.matches(words)}
    assert PatternIndex(patterns).find(words) == expected


def test_an_expression_with_bounded_repeats_inside_is_taken_and_sees_the_beginning_of_a_turn():
    digits = compile_pattern(r"/\b(?:\d ?){12,}/")
    assert digits.matches("it is " + "4 " * 16)
    assert compile_pattern(r"/(?:\w+ ){0,3}card/").matches("my own card")
    assert not digits.matches("word " * 400 + "4 " * 16)
    assert compile_pattern("card").matches("word " * 400 + "card")
