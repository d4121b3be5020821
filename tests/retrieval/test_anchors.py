import numpy as np
import pytest

from retrieval.anchors import OFF_TOPIC, PHRASES, Anchors
from tests.retrieval.hashing_embedder import HashingEmbedder


def test_phrases_are_texts_and_none_is_of_two_kinds() -> None:
    assert all(isinstance(phrase, str) and phrase.strip() == phrase for phrase in PHRASES)
    assert len(set(PHRASES)) == len(PHRASES)
    assert set(OFF_TOPIC) < set(PHRASES)


async def test_learns_which_turns_carry_a_topic_and_which_questions_are_for_others() -> None:
    embedder = HashingEmbedder()
    anchors = Anchors.of(await embedder.embed(PHRASES))
    topic, number, friend = await embedder.embed(
        ["i was charged for a delivery", "my account number is seven", "what is the capital of the country"]
    )
    assert anchors.topicality(topic[None]) > anchors.topicality(number[None])
    nothing = np.zeros(1, np.float32)
    assert anchors.relevance(topic[None], nothing) > anchors.relevance(friend[None], nothing)
    assert anchors.relevance(friend[None], nothing + 0.9) > anchors.relevance(friend[None], nothing)
    assert anchors.nearest_boundary(await embedder.embed(["anything else"]))[0] > 0.9


async def test_the_nearest_example_says_more_of_a_turn_than_the_rule() -> None:
    embedder = HashingEmbedder()
    anchors = Anchors.of(await embedder.embed(PHRASES))
    number, topic = await embedder.embed(["my zip code is nine four one one zero", "i spilled coffee on it"])
    assert anchors.topicality(number[None]) < min(0, anchors.topical(number[None])[0])
    assert anchors.topicality(topic[None]) > max(0, anchors.topical(topic[None])[0])


def test_vectors_of_other_phrases_are_refused() -> None:
    with pytest.raises(ValueError, match="phrases"):
        Anchors.of(np.zeros((3, 8), np.float32))
