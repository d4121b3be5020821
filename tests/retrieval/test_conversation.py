import numpy as np
import pytest

from retrieval.conversation import (
    MAX_CONTEXT_TURNS,
    MAX_TURNS,
    Query,
    Turn,
    build_query,
    decode_context,
    parse_context,
    weigh_turns,
)
from retrieval.errors import BadQuery


def weigh(
    topicality: list[float], boundaries: tuple[int, ...] = (), agent: tuple[int, ...] = ()
) -> tuple[dict[int, float], str]:
    turns = [Turn("agent" if n in agent else "customer", f"turn {n}") for n in range(len(topicality))]
    boundary = np.array([n in boundaries for n in range(len(topicality))], np.float32)
    topic = weigh_turns(Query("how long", tuple(turns)), np.array(topicality, np.float32), boundary)
    return dict(zip(topic.turns, topic.weights.tolist(), strict=True)), topic.gist


def test_small_talk_and_particulars_count_nothing_and_push_nothing_back() -> None:
    weights, gist = weigh([1.0, *[-1.0] * 12])
    assert list(weights) == [0]
    assert weights[0] > 0.7
    assert gist == "turn 0. how long"


def test_a_newer_topic_pushes_the_older_back() -> None:
    weights, gist = weigh([1.0, 1.0])
    assert weights[1] > 1.5 * weights[0]
    assert gist == "turn 0. turn 1. how long"


def test_the_weightiest_turns_are_read_with_the_question_and_all_count() -> None:
    weights, gist = weigh([1.0, 1.0, 0.0, 0.1, 1.0], agent=(0, 1, 2, 3))
    assert list(weights) == [0, 1, 2, 3, 4]
    assert gist == "turn 0. turn 1. turn 4. how long"


def test_what_lies_before_something_else_is_left() -> None:
    weights, gist = weigh([1.0, 0.0, 1.0], boundaries=(1,))
    assert list(weights) == [2]
    assert gist == "turn 2. how long"


def test_an_agent_who_names_the_topic_is_heard_but_pushes_nothing_back() -> None:
    weights, _ = weigh([1.0, 1.0], agent=(1,))
    assert weights[0] > weights[1] > 0


def test_without_a_topic_the_likeliest_turn_is_kept() -> None:
    assert weigh([-1.0, -0.9])[1] == "turn 1. how long"
    assert weigh([]) == ({}, "")


def test_the_question_is_not_a_turn_of_its_own() -> None:
    turns = [Turn("customer", "my refund"), Turn("agent", "boots?"), Turn("customer", "how long"), Turn("agent", "hm")]
    assert build_query(" how  long ", turns).texts == ("how long", "my refund", "boots?", "hm")
    assert len(build_query("q", [Turn("customer", f"t{n}") for n in range(99)]).turns) == MAX_TURNS


def test_contexts_in_every_form() -> None:
    assert decode_context("") == ()
    assert decode_context('["my refund", "agent: yes"]') == (Turn("customer", "my refund"), Turn("agent", "yes"))
    assert decode_context('[{"speaker": "Caller", "text": "hi"}]') == (Turn("customer", "hi"),)


@pytest.mark.parametrize("text", ["{", "3", "[3]", '[{"speaker": "customer"}]', '[{"speaker": 1, "text": "a"}]'])
def test_a_wrong_context_names_its_place(text: str) -> None:
    with pytest.raises(BadQuery) as raised:
        decode_context(text)
    assert (raised.value.field or "").startswith("context")


@pytest.mark.parametrize("question", ["", "  ", "?", "... !", "a" * 2001])
def test_a_wrong_question(question: str) -> None:
    with pytest.raises(BadQuery):
        build_query(question)


@pytest.mark.parametrize("speaker", ["supervisor", "", None])
def test_a_speaker_of_neither_side_is_refused_with_the_words_that_are_known(speaker):
    with pytest.raises(BadQuery, match=r"customer, .*agent") as caught:
        parse_context([{"text": "a"}, {"speaker": speaker, "text": "b"}])
    assert caught.value.field == "context[1].speaker"
    assert "supervisor" not in caught.value.message


def test_a_line_that_only_looks_labelled_is_the_customers() -> None:
    assert parse_context(["the price: five"]) == (Turn("customer", "the price: five"),)


def test_a_wrong_turn_is_named_by_its_place_in_the_whole_conversation():
    turns = ["a", *["fine"] * MAX_CONTEXT_TURNS, 5]
    with pytest.raises(BadQuery) as caught:
        parse_context(turns)
    assert caught.value.field == f"context[{MAX_CONTEXT_TURNS + 1}]"
