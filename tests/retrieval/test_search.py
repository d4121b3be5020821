"""What a search asks the encoder for, and what it makes of it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from inference.request import EmbeddingArray
from retrieval import scoring
from retrieval.anchors import OFF_TOPIC
from retrieval.article import Viewer
from retrieval.conversation import Turn, build_query
from retrieval.dense import Group
from retrieval.generation import Generation
from retrieval.ingest import ingest
from retrieval.search import KnowledgeBase, Search
from retrieval.store import BaseStore
from tests.retrieval.hashing_embedder import HashingEmbedder

ARTICLES = {
    "jacket": "A refund for a returned jacket takes five working days.",
    "shoes": "A refund for returned shoes takes nine working days.",
    "hat": "A refund for a returned hat takes seven working days.",
    "tent": "A refund for a returned tent takes eight working days.",
    "boots": "Hiking boots keep water outside and come with a warranty.",
}
ABOUT_REFUNDS = (Turn("customer", "my refund for what i returned"), Turn("agent", "the working days of a refund"))
ABOUT_BOOTS = (Turn("customer", "my hiking boots leak water"), Turn("agent", "hiking boots have a warranty"))


async def opened(data: Path, embedder: HashingEmbedder) -> KnowledgeBase:
    folder = data / "articles"
    folder.mkdir()
    for name, text in ARTICLES.items():
        (folder / f"{name}.md").write_text(f"# {name.title()}\n\n{text}\n")
    await ingest(folder, BaseStore(data, "shop", "faq"), HashingEmbedder())
    return KnowledgeBase(data, "shop", "faq", embedder)


async def asked_for(base: KnowledgeBase, embedder: HashingEmbedder, question: str, *turns: Turn) -> list[str]:
    """Texts that a search had embedded beside the question and the turns, and what it found."""
    query = build_query(question, turns)
    embedder.embedded.clear()
    answer = await base.search(query)
    assert embedder.embedded[: len(query.texts)] == list(query.texts)
    assert not turns or answer.topic.endswith(question)
    return [*embedder.embedded[len(query.texts) :], *(result.source for result in answer.results[:1])]


async def test_among_near_neighbours_the_gist_is_read(tmp_path: Path) -> None:
    embedder = HashingEmbedder()
    base = await opened(tmp_path, embedder)
    gist, _ = await asked_for(base, embedder, "how long does that take", *ABOUT_REFUNDS)
    assert gist == "my refund for what i returned. the working days of a refund. how long does that take"


async def test_an_article_far_ahead_needs_no_gist(tmp_path: Path) -> None:
    embedder = HashingEmbedder()
    base = await opened(tmp_path, embedder)
    assert await asked_for(base, embedder, "do they keep water out", *ABOUT_BOOTS) == ["boots.md"]


@pytest.mark.parametrize("question", ["thank you very much", OFF_TOPIC[0]])
async def test_what_is_left_unanswered_needs_no_gist(tmp_path: Path, question: str) -> None:
    embedder = HashingEmbedder()
    base = await opened(tmp_path, embedder)
    assert await asked_for(base, embedder, question, *ABOUT_REFUNDS) == []


async def test_without_a_conversation_there_is_no_gist(tmp_path: Path) -> None:
    embedder = HashingEmbedder()
    base = await opened(tmp_path, embedder)
    assert await asked_for(base, embedder, "working days of a refund for a jacket") == ["jacket.md"]


def vector(generation: Generation, source: str) -> EmbeddingArray:
    (number,) = (n for n, passage in enumerate(generation.content.passages) if passage.source == source)
    return generation.dense.vectors[number : number + 1]


async def test_a_scan_finds_what_only_the_gist_is_near_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "DENSE_CANDIDATES", 1)
    monkeypatch.setattr(scoring, "LEXICAL_CANDIDATES", 1)
    flat = (await opened(tmp_path, HashingEmbedder())).generation()
    scan = SimpleNamespace(search=lambda rows, k: (None, np.argsort(-(rows @ flat.dense.vectors.T), axis=1)[:, :k]))
    group = Group(np.arange(len(flat.dense.vectors)), scan)
    scanned = replace(flat, dense=replace(flat.dense, kind="scan", groups=(group,)))
    found = {}
    for generation in (flat, scanned):
        search = Search(generation, build_query("how long does that take", ABOUT_REFUNDS), Viewer())
        assert search.listen(await HashingEmbedder().embed(search.texts))
        results, evidence = search.answer(vector(flat, "boots.md"), top_k=9)
        found[generation.dense.kind] = ({result.source: round(result.score, 5) for result in results}, evidence)
    scores, evidence = found["scan"]
    assert 1 < len(scores) < len(ARTICLES)
    assert "boots.md" in scores
    assert scores.items() <= found["flat"][0].items()
    assert evidence == pytest.approx(found["flat"][1])


async def test_sentences_have_to_be_near_to_the_question_and_to_what_it_means(tmp_path: Path) -> None:
    generation = (await opened(tmp_path, HashingEmbedder())).generation()

    async def asked(question: str, *turns: Turn) -> tuple[EmbeddingArray, EmbeddingArray]:
        search = Search(generation, build_query(question, turns), Viewer())
        vectors = await HashingEmbedder().embed(search.texts)
        gist = search.listen(vectors)
        search.answer(vector(generation, "hat.md") if gist else None)
        np.testing.assert_array_equal(search.asked[0], vectors[0])
        return search.asked[1:], vectors

    alone, _ = await asked("working days of a refund for a jacket")
    assert not len(alone)
    read, _ = await asked("how long does that take", *ABOUT_REFUNDS)
    np.testing.assert_array_equal(read, vector(generation, "hat.md"))
    (composed,), vectors = await asked("do they keep water out", *ABOUT_BOOTS)
    assert np.linalg.norm(composed) == pytest.approx(1)
    assert (vectors[1:] @ composed > vectors[1:] @ vectors[0]).all()
