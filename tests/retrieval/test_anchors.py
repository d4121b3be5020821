import hashlib
import math

import numpy as np
import pytest

from retrieval.anchors import OFF_TOPIC, PHRASES, Anchors
from retrieval.conversation import MIN_TOPICAL, TOPICAL_SCALE
from retrieval.manifest import FORMAT_VERSION
from tests.retrieval.hashing_embedder import HashingEmbedder
from tests.server.policy.encoder import Encoder


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


@pytest.mark.slow
def test_names_numbers_and_waiting_are_told_from_topics_by_the_shipped_model() -> None:
    encoder = Encoder()

    def topicality(*texts: str) -> list[float]:
        assert not set(texts) & set(PHRASES)
        return anchors.topicality(np.concatenate([encoder.outputs(text)["retrieval"] for text in texts])).tolist()

    anchors = Anchors.of(np.concatenate([encoder.outputs(phrase)["retrieval"] for phrase in PHRASES]))
    beside = topicality(
        "and the house number was",
        "do we still have you on linden street",
        "could i have the last digits of that card",
        "it's joan i mean joanna keller",
        "keller dot joanna at inbox dot com",
        "sixty one birch court",
        "i can barely hear you",
    )
    topics = topicality(
        "the zipper broke the first time i wore it",
        "you took the money twice",
        "we've moved and the internet is not switched on yet",
    )
    left_out = TOPICAL_SCALE * math.log(MIN_TOPICAL / (1 - MIN_TOPICAL))
    assert max(beside) < left_out < min(topics)


async def test_the_nearest_example_says_more_of_a_turn_than_the_rule() -> None:
    embedder = HashingEmbedder()
    anchors = Anchors.of(await embedder.embed(PHRASES))
    number, topic = await embedder.embed(["my zip code is nine four one one zero", "i spilled coffee on it"])
    assert anchors.topicality(number[None]) < min(0, anchors.topical(number[None])[0])
    assert anchors.topicality(topic[None]) > max(0, anchors.topical(topic[None])[0])


def test_other_phrases_are_another_format() -> None:
    # A base holds their vectors; without another number it would be called damaged.
    digest = hashlib.sha256("\n".join(PHRASES).encode()).hexdigest()[:12]
    assert (FORMAT_VERSION, digest) == (4, "e01f62f2abfb")


def test_vectors_of_other_phrases_are_refused() -> None:
    with pytest.raises(ValueError, match="phrases"):
        Anchors.of(np.zeros((3, 8), np.float32))
