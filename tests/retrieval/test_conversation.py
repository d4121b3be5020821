import numpy as np
import pytest

from retrieval.conversation import MAX_TURNS, Query, Turn, build_query, decode_context, weigh_turns
from retrieval.errors import BadQuery


def weigh(nearest: list[float], beside: list[float]) -> tuple[list[float], str]:
    query = Query("how long", tuple(f"turn {number}" for number in range(len(nearest))))
    topic = weigh_turns(query, np.array(nearest, np.float32), np.array(beside, np.float32), [True] * len(nearest))
    return topic.weights.tolist(), topic.gist


def test_small_talk_counts_little_wherever_it_stands() -> None:
    weights, gist = weigh([0.7, 0.2, 0.2], [0.2, 0.9, 0.8])
    assert weights[0] > 10 * max(weights[1:])
    assert gist == "turn 0. how long"


def test_a_newer_topic_pushes_the_older_back() -> None:
    weights, _ = weigh([0.7, 0.7], [0.2, 0.2])
    assert weights[1] > 2 * weights[0]


def test_without_a_topic_the_likeliest_turn_is_kept() -> None:
    assert weigh([0.2, 0.3], [0.5, 0.5])[1] == "turn 1. how long"
    assert weigh([], []) == ([], "")


def test_the_agent_is_not_searched_for_and_the_question_not_twice() -> None:
    turns = [Turn("customer", "my refund"), Turn("agent", "boots?"), Turn("customer", "how long"), Turn("agent", "hm")]
    assert build_query(" how  long ", turns).turns == ("my refund",)
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


@pytest.mark.parametrize("question", ["", "  ", "a" * 2001])
def test_a_wrong_question(question: str) -> None:
    with pytest.raises(BadQuery):
        build_query(question)
