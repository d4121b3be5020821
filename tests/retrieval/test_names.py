"""Names worth telling a recogniser."""

import string

from hypothesis import given
from hypothesis import strategies as st

from retrieval.names import MAX_NAME_CHARS, names

TEXTS = (
    "Drivers of the Kia Sorento ask for the AutoCare Plus plan. It costs 20 a month.",
    "The Kia Sorento needs oil. Ask in Bad Homburg: Monday is open.\nPlus points count.",
)


def test_those_in_most_articles_come_first_and_neighbours_are_one():
    assert names(TEXTS) == ("Kia Sorento", "AutoCare Plus", "Bad Homburg")


def test_the_beginning_of_a_sentence_and_words_that_are_written_small_elsewhere_are_none():
    assert names(("Call us. We help. I know that I can.", "See the Manual.", "It is in the manual.")) == ()


def test_no_more_than_asked_for():
    assert names(TEXTS, limit=1) == ("Kia Sorento",)


@given(st.lists(st.text(string.ascii_letters + " .\n-é", max_size=80), max_size=6))
def test_every_name_stands_in_a_text_as_it_is(texts):
    for name in names(texts):
        assert any(name in text for text in texts)
        assert len(name) <= MAX_NAME_CHARS
