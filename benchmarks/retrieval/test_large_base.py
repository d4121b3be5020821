"""Search in 100,000 real passages: the index against exact search, its time, and its time while a base is filled.

Filling it takes the encoder half an hour on two cores, so it is done only on demand and kept:

    CUELINE_LARGE_BASE=DIR pytest benchmarks/retrieval/test_large_base.py -s

Searches are measured without the encoder (every vector is made before), one thread, on the wall's clock and on the
thread's own: on a shared machine the first also measures the neighbours. Asserted are the recall, and the time on the
thread's own clock; the rest is printed.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from benchmarks.retrieval.real_text import write_articles
from inference.engine import Engine, EngineSettings
from inference.repository import ModelRepository
from inference.request import EmbeddingArray
from retrieval.apart import ingest_apart
from retrieval.article import Viewer
from retrieval.conversation import Query, build_query
from retrieval.evaluation import read_cases
from retrieval.generation import Generation
from retrieval.ingest import ingest
from retrieval.manifest import Embedder, EngineEmbedder, encoder_identity
from retrieval.scoring import DENSE_CANDIDATES
from retrieval.search import Search
from retrieval.store import BaseStore
from server.config.settings import PROJECT_ROOT
from tests.retrieval.hashing_embedder import HashingEmbedder

DATA = os.environ.get("CUELINE_LARGE_BASE", "")
NUM_PASSAGES = 100_000
BUDGET_MS = 25.0
MIN_RECALL = 0.98
RECALL_AT = 10
NUM_ROUNDS = 3

pytestmark = pytest.mark.skipif(not DATA, reason="CUELINE_LARGE_BASE names no folder to keep 100,000 passages in")


class Asked:
    """A question with every vector that its search needs."""

    def __init__(self, query: Query, vectors: EmbeddingArray, gist: EmbeddingArray | None) -> None:
        self.query, self.vectors, self.gist = query, vectors, gist


async def prepare(generation: Generation, queries: Sequence[Query], embedder: Embedder) -> list[Asked]:
    asked = []
    for query in queries:
        vectors = await embedder.embed(query.texts)
        gist = Search(generation, query, Viewer()).listen(vectors)
        asked.append(Asked(query, vectors, await embedder.embed([gist]) if gist else None))
    return asked


def search_all(generation: Generation, asked: Sequence[Asked]) -> EmbeddingArray:
    """Return `[searches, 2] float64`, milliseconds of each on the wall's and on the thread's clock."""
    took = []
    for _ in range(NUM_ROUNDS):
        for one in asked:
            wall_s, own_s = time.perf_counter(), time.thread_time()
            search = Search(generation, one.query, Viewer())
            search.listen(one.vectors)
            search.answer(one.gist)
            took.append(((time.perf_counter() - wall_s) * 1e3, (time.thread_time() - own_s) * 1e3))
    return np.array(took)


def line(took: EmbeddingArray) -> str:
    wall, own = (np.percentile(took[:, column], (50, 95, 99)) for column in (0, 1))
    return (
        f"wall p50 {wall[0]:.1f} p95 {wall[1]:.1f} p99 {wall[2]:.1f} ms, own p50 {own[0]:.1f} p95 {own[1]:.1f} "
        f"p99 {own[2]:.1f} ms, n={len(took)}"
    )


def recall(generation: Generation, vectors: EmbeddingArray) -> float:
    """Return the share of the nearest passages by exact search that are among the candidates."""
    found = 0
    for vector in vectors:
        exact = generation.dense.vectors @ vector
        worst = np.partition(-exact, RECALL_AT)[RECALL_AT - 1]
        chosen = generation.dense.candidates(vector[None], None, DENSE_CANDIDATES)
        found += min(RECALL_AT, int((-exact[chosen] <= worst + 1e-6).sum()))  # equal ones are as good
    return found / (RECALL_AT * len(vectors))


async def run(data: Path) -> None:
    repository = ModelRepository.open(PROJECT_ROOT / "model_repo")
    engine = Engine(repository, EngineSettings())
    await engine.start()
    embedder = EngineEmbedder(engine, encoder_identity(repository))
    store = BaseStore(data, "large", "docs")
    if not store.generations():
        start_s = time.perf_counter()
        if not (data / "articles").is_dir():
            write_articles(data / "articles", NUM_PASSAGES)
        await ingest(data / "articles", store, embedder)
        print(f"\nfilled in {time.perf_counter() - start_s:.0f} s")
    start_s = time.perf_counter()
    generation = Generation.open(store, store.current())
    print(f"\n{generation.manifest.passages} passages, {generation.manifest.index}, ", end="")
    print(f"opened in {(time.perf_counter() - start_s) * 1e3:.0f} ms, load {os.getloadavg()[0]:.1f}")
    cases = []
    for name in ("guidelines_interrupted", "guidelines_direct", "car_service"):
        cases += read_cases((PROJECT_ROOT / "benchmarks" / "retrieval" / f"{name}.jsonl").read_bytes().splitlines())
    asked = await prepare(generation, [build_query(case.question, case.context) for case in cases], embedder)
    await engine.stop()

    vectors = np.concatenate([one.vectors[:1] for one in asked] + [one.gist for one in asked if one.gist is not None])
    share = recall(generation, vectors)
    print(f"recall@{RECALL_AT} of the {generation.dense.kind}, {len(vectors)} queries: {share:.4f}")

    search_all(generation, asked[:20])
    alone = search_all(generation, asked)
    print(f"alone:            {line(alone)}")
    if not (data / "some").is_dir():
        write_articles(data / "some", 10_000)
    filling = asyncio.create_task(ingest_apart(data / "some", BaseStore(data, "large", "some"), HashingEmbedder()))
    beside = await asyncio.to_thread(search_all, generation, asked)
    is_filling = not filling.done()
    report = await filling
    print(f"while one fills:  {line(beside)} ({report.manifest.passages} passages, still filling: {is_filling})")
    BaseStore(data, "large", "some").delete()
    assert share >= MIN_RECALL
    assert np.percentile(alone[:, 1], 99) < BUDGET_MS


def test_search_in_100_000_passages() -> None:
    with threadpool_limits(1, "blas"):  # as the engine holds it
        asyncio.run(run(Path(DATA)))
