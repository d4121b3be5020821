"""What is learned from is what a search would see."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from inference.request import EmbeddingArray
from inference.training.service_bases import ServiceArticle, ServiceBase
from retrieval.practice import search_tasks
from tests.retrieval.hashing_embedder import HashingEmbedder

BASE = ServiceBase(
    "bank",
    (
        ServiceArticle(
            "card.md",
            "Lost card",
            "Block the card at once. " * 12,
            (
                ("i lost my card", ()),
                ("how long does that take", (("customer", "i lost my card and want a new one"), ("agent", "okay"))),
            ),
        ),
        ServiceArticle("loan.md", "Loans", "Loans run for five years.", (("how long does a loan run", ()),)),
    ),
)


def embed(texts: Sequence[str]) -> EmbeddingArray:
    return asyncio.run(HashingEmbedder().embed(texts))


def test_questions_become_texts_with_shares_and_the_part_that_answers() -> None:
    (task,) = search_tasks([BASE], ["loans of the moon"], embed)
    assert task.name == "bank"
    assert task.answers.tolist() == [0, 0, 1]
    assert task.is_direct.tolist() == [True, False, True]
    np.testing.assert_allclose(task.shares.sum(1), 1, atol=1e-6)
    assert [task.texts[number] for number in task.last[[0, 2]]] == ["i lost my card", "how long does a loan run"]
    gist = task.texts[task.last[1]]
    assert gist.endswith(". how long does that take")
    assert gist != "how long does that take"


def test_documents_are_passages_then_titles_openings_and_wholes() -> None:
    (task,) = search_tasks([BASE], ["loans of the moon"], embed)
    num_passages = len(task.passages)
    assert num_passages > 2
    assert task.part_of.tolist() == [0] * (num_passages - 1) + [1]
    assert task.documents[num_passages : num_passages + 2] == ["Lost card", "Loans"]
    assert len(task.documents) == num_passages + 3 * 2
    assert task.lexical.shape == (len(task.texts), 2)
    row = task.texts.index("how long does a loan run")
    assert task.lexical[row, 1] > task.lexical[row, 0] == 0
    assert task.off_topic_lexical[0, 1] > task.off_topic_lexical[0, 0] == 0
