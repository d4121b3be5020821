from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from server.speech.text_guards import collapse_loops, plausible_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thank you. Thank you. Thank you. Thank you. Thank you.", "Thank you."),
        ("I am going to add some salt and I am going to add some salt and " * 4, "I am going to add some salt and"),
        ("no, no, no", "no, no, no"),
        ("My number is zero zero zero zero five", "My number is zero zero zero zero five"),
        ("5 5 5 5 1 2", "5 5 5 5 1 2"),
        ("ha ha ha ha ha ha well", "ha well"),
        ("", ""),
    ],
)
def test_loops_are_cut_to_one_copy(text: str, expected: str) -> None:
    assert collapse_loops(text) == expected


@given(st.lists(st.sampled_from(["yes", "no", "oil", "change", "the"]), max_size=40))
def test_what_is_left_has_no_loop_and_only_words_that_were_there(words: list[str]) -> None:
    collapsed = collapse_loops(" ".join(words)).split()
    assert set(collapsed) <= set(words)
    assert len(collapsed) <= len(words)
    for size in (1, 2, 3):
        for start in range(len(collapsed) - 4 * size + 1):
            phrase = collapsed[start : start + size]
            assert any(collapsed[start + k * size : start + (k + 1) * size] != phrase for k in range(1, 4))


def plausible(text: str, confidence: float = 0.8, voiced_ms: int = 2_000, is_capped: bool = False) -> str:
    return plausible_text(text, confidence=confidence, voiced_ms=voiced_ms, is_capped=is_capped, min_confidence=0.3)


def test_speech_passes() -> None:
    assert plausible("The warning light came on.") == "The warning light came on."
    assert plausible("Yes.", voiced_ms=160) == "Yes."
    assert plausible("42") == "42"


def test_noise_does_not() -> None:
    assert plausible("thing", confidence=0.1) == ""
    assert plausible("You.", confidence=0.97) == ""
    assert plausible("You too.") == "You too."
    assert plausible(". . .") == ""
    assert plausible("a b c d e f g h i j k l m n o p", voiced_ms=500) == ""
    assert plausible("one thing after another", is_capped=True) == ""
    assert plausible("salt and " * 20, is_capped=True, voiced_ms=9_000) == "salt and"
