"""Ingests in a process of their own: the same base, the same errors, and nothing left behind."""

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from inference.request import EmbeddingArray
from retrieval.access import RULES_FILE
from retrieval.apart import ingest_apart, size_bytes
from retrieval.conversation import build_query
from retrieval.errors import EmptyFolder, RetrievalError, UnreadableFile
from retrieval.search import KnowledgeBase
from retrieval.store import BaseStore
from tests.retrieval.hashing_embedder import HashingEmbedder

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "articles"
    folder.mkdir()
    (folder / "hours.md").write_text("# Opening hours\n\nThe workshop opens at seven.\n")
    (folder / "broken.json").write_text("{")
    return folder


async def test_makes_the_base_that_an_ingest_here_makes(tmp_path: Path, folder: Path) -> None:
    stages = []
    embedder, store = HashingEmbedder(), BaseStore(tmp_path, "shop", "faq")
    report = await ingest_apart(folder, store, embedder, lambda stage, done, total: stages.append(stage), origin="hand")
    assert (report.articles_new, [skipped.source for skipped in report.skipped]) == (1, ["broken.json"])
    assert report.manifest == store.manifest()
    assert report.manifest.origin == "hand"
    assert set(stages) == {"read", "embed", "index"}
    answer = await KnowledgeBase(tmp_path, "shop", "faq", embedder).search(build_query("when is the workshop open"))
    assert [result.source for result in answer.results] == ["hours.md"]
    again = await ingest_apart(folder, store, embedder, origin="hand")
    assert not again.is_changed


def test_the_weight_of_a_folder(folder: Path) -> None:
    assert size_bytes(folder) == sum(path.stat().st_size for path in folder.iterdir())


async def test_errors_are_the_ones_of_an_ingest_here(tmp_path: Path, folder: Path) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    with pytest.raises(EmptyFolder) as empty:
        await ingest_apart(tmp_path / "nowhere", store, HashingEmbedder())
    assert empty.value.field == "DIR"
    (folder / RULES_FILE).write_text("- not a mapping")
    with pytest.raises(UnreadableFile) as unreadable:
        await ingest_apart(folder, store, HashingEmbedder())
    assert (unreadable.value.source, unreadable.value.field) == (RULES_FILE, RULES_FILE)
    assert RULES_FILE not in unreadable.value.reason


class Killing(HashingEmbedder):
    """Kills the process that asks."""

    async def embed(self, texts: Sequence[str]) -> EmbeddingArray:
        for child in ingests():
            os.kill(child, signal.SIGKILL)
        return await super().embed(texts)


def ingests() -> list[int]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(child) for child in children if b"retrieval.apart" in Path(f"/proc/{child}/cmdline").read_bytes()]


async def test_a_killed_ingest_leaves_the_base_as_it_was(tmp_path: Path, folder: Path) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    with pytest.raises(RetrievalError, match="ended from outside"):
        await ingest_apart(folder, store, Killing())
    assert store.generations() == []
    assert (await ingest_apart(folder, store, HashingEmbedder())).is_changed


class Hanging(HashingEmbedder):
    """Says that it was asked, and never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def embed(self, texts: Sequence[str]) -> EmbeddingArray:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


async def test_who_stops_waiting_stops_the_ingest(tmp_path: Path, folder: Path) -> None:
    embedder, store = Hanging(), BaseStore(tmp_path, "shop", "faq")
    waiting = asyncio.create_task(ingest_apart(folder, store, embedder))
    await embedder.asked.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with store.writing():  # its lock is free: the process is gone
        pass
