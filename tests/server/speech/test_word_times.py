from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given

from server.speech.word_times import spread_words


def test_words_share_the_voice_by_their_letters() -> None:
    words = spread_words("a bbb", [(1_000, 1_600)], 0.9)
    assert [(w.text, w.start_ms, w.end_ms) for w in words] == [("a", 1_000, 1_200), ("bbb", 1_200, 1_600)]


def test_a_pause_belongs_to_no_word() -> None:
    words = spread_words("aaa bbb", [(0, 500), (900, 1_400)], 0.9)
    assert [(w.start_ms, w.end_ms) for w in words] == [(0, 500), (900, 1_400)]


def test_nothing_said_or_no_voice_gives_no_words() -> None:
    assert spread_words("", [(0, 500)], 1.0) == ()
    assert spread_words("yes", [], 1.0) == ()


@given(
    st.lists(st.text(alphabet="abcdef,.", min_size=1, max_size=12), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(1, 500), st.integers(1, 3_000)), min_size=1, max_size=6),
)
def test_words_stay_in_order_inside_the_voice(texts: list[str], steps: list[tuple[int, int]]) -> None:
    voiced = []
    now = 0
    for silence, length in steps:
        voiced.append((now + silence, now + silence + length))
        now = voiced[-1][1]
    words = spread_words(" ".join(texts), voiced, 1.0)
    assert [w.text for w in words] == texts
    assert words[0].start_ms == voiced[0][0]
    assert words[-1].end_ms == pytest.approx(voiced[-1][1], abs=1)
    for word in words:
        assert word.start_ms <= word.end_ms
    for word, following in itertools.pairwise(words):
        assert word.end_ms <= following.start_ms
