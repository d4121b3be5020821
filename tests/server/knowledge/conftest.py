"""A library over a small base, with an encoder of no weights."""

import pytest

from retrieval.ingest import ingest
from retrieval.store import BaseStore
from server.knowledge.library import Library
from tests.retrieval.hashing_embedder import HashingEmbedder

ARTICLES = {
    "refund.md": "# Refund status\n\nA refund for a returned jacket takes five working days. It goes to the card.\n",
    "boots.md": "# Waterproof boots\n\nHiking boots keep water outside and come with a warranty.\n",
}


@pytest.fixture
def articles(tmp_path):
    folder = tmp_path / "articles" / "faq"
    folder.mkdir(parents=True)
    for name, text in ARTICLES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
async def library(tmp_path, articles):
    embedder = HashingEmbedder()
    await ingest(articles, BaseStore(tmp_path, "shop", "faq"), embedder)
    library = Library(tmp_path, tmp_path / "none", embedder, embedder)
    yield library
    await library.stop()
