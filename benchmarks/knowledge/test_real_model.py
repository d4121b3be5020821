"""Answers written by a real model: time to the first token, and how many of its sentences a passage supports.

Needs an OpenAI-compatible endpoint, such as a local llama-server with a small instruct model:

    llama-server -m model.gguf --port 8091 -c 4096 -np 1
    CUELINE_LLM_URL=http://127.0.0.1:8091/v1 pytest benchmarks/knowledge/test_real_model.py -s

Asks the questions of the car service's set one after the other, with deadlines that a laptop's processor can keep. What
is asserted is what the checks promise whatever a model writes; the numbers are the model's and the machine's.
"""

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from inference.engine import Engine, EngineSettings
from inference.generation import ChatClient, ChatSettings, Usage
from inference.repository import ModelRepository
from retrieval.conversation import build_query
from retrieval.evaluation import Case, read_cases
from retrieval.ingest import ingest
from retrieval.manifest import EngineEmbedder, encoder_identity
from retrieval.search import KnowledgeBase
from retrieval.store import BaseStore
from server.config.settings import PROJECT_ROOT
from server.knowledge.questions import Question
from server.knowledge.writer import Writer
from server.metrics import Metrics

URL = os.environ.get("CUELINE_LLM_URL", "")
MODEL = os.environ.get("CUELINE_LLM_MODEL", "local")
PATIENCE_S = 120.0

pytestmark = pytest.mark.skipif(not URL, reason="CUELINE_LLM_URL names no endpoint, such as a local llama-server")


class Heard:
    """Keeps what the client tells of its requests."""

    def __init__(self) -> None:
        self.first_token_s: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.prompt_tokens: list[int] = []
        self.completion_tokens: list[int] = []

    def first_token(self, duration_s: float) -> None:
        self.first_token_s.append(duration_s)

    def ended(self, outcome: str, usage: Usage | None) -> None:
        self.outcomes[outcome] += 1
        if usage is not None:
            self.prompt_tokens.append(usage.prompt_tokens)
            self.completion_tokens.append(usage.completion_tokens)

    def hedged(self) -> None:
        raise AssertionError("a hedge would compete with its own request for one processor")


async def write_answers(data: Path, cases: list[Case]) -> None:
    repository = ModelRepository.open(PROJECT_ROOT / "model_repo")
    engine = Engine(repository, EngineSettings())
    await engine.start()
    heard, metrics = Heard(), Metrics()
    settings = ChatSettings(
        URL,
        MODEL,
        first_token_s=PATIENCE_S,
        hedge_after_s=PATIENCE_S,
        silence_s=PATIENCE_S,
        total_s=PATIENCE_S,
        isolation_field="",
    )
    client = ChatClient(settings, heard)
    try:
        embedder = EngineEmbedder(engine, encoder_identity(repository))
        await ingest(PROJECT_ROOT / "graphs" / "knowledge" / "car_service", BaseStore(data, "shop", "faq"), embedder)
        base = KnowledgeBase(data, "shop", "faq", embedder)
        writer = Writer(client, embedder, metrics)
        num_written, whole_s = 0, []
        for number, case in enumerate(cases):
            answer = await base.search(build_query(case.question, case.context), top_k=2)
            question = Question(f"u{number}", case.question, case.context, "question")
            start_s = time.perf_counter()
            bodies = [body async for body in writer.write("shop", "faq", question, answer)]
            whole_s.append(time.perf_counter() - start_s)
            num_written += bool(bodies)
            print(f"\n{case.question}\n    {bodies[-1] if bodies else 'nothing that a passage supports'}")
            assert all("[1]" in body or "[2]" in body for body in bodies)
        counts = {kind: metrics.knowledge_sentences.labels(kind)._value.get() for kind in ("supported", "unsupported")}
        num_sentences = sum(counts.values())
        first = np.percentile(heard.first_token_s, (50, 95))
        print(
            f"\n{len(cases)} questions, prompt {np.mean(heard.prompt_tokens):.0f} tokens, answer "
            f"{np.mean(heard.completion_tokens):.0f}: first token p50 {first[0]:.2f} p95 {first[1]:.2f} s, whole p50 "
            f"{np.median(whole_s):.2f} s; {counts['supported']:.0f} of {num_sentences:.0f} sentences supported, "
            f"{num_written} cards written"
        )
        assert heard.outcomes == {"done": len(cases)}
        assert counts["supported"] > 0
    finally:
        await client.close()
        await engine.stop()


def test_a_real_model_writes_answers(tmp_path: Path) -> None:
    cases = read_cases((PROJECT_ROOT / "benchmarks" / "retrieval" / "car_service.jsonl").read_bytes().splitlines())
    asyncio.run(write_answers(tmp_path, cases))
