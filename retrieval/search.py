"""Search in one opened base: what answers this question, in this conversation, for this viewer; or nothing.

query ─▶ vectors ─▶ topic ─▶ gist ─▶ candidates (rights first) ─▶ evidence ─▶ order ─▶ answerable? ─▶ results

`Search` is pure but for the vectors it asks for; `KnowledgeBase` opens generations and notices new ones.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from inference.request import EmbeddingArray
from retrieval.article import Viewer
from retrieval.conversation import GIST_WEIGHT, QUESTION_WEIGHT, Query, Topic, weigh_turns
from retrieval.errors import BadQuery, DamagedIndex, NoSuchBase
from retrieval.generation import Generation
from retrieval.highlight import Span, choose, sentence_texts, sentences
from retrieval.manifest import Embedder
from retrieval.scoring import Candidates, candidates, lexical_scores, score
from retrieval.store import BaseStore
from retrieval.words import query_terms, terms

T = TypeVar("T")

MAX_TOP_K = 50
MAX_KNOWN_SENTENCES = 4096
"""Passages whose sentences' vectors are kept: what is asked is asked again. A few megabytes."""
NEAR_DUPLICATE_SHARE = 0.9
"""Share of common words from which a second article says the same as the first. High on purpose: guidelines for three
kinds of return differ in a word, and each is an answer of its own."""
SMALL_TALK_COSINE = 0.8
"""From here on a question is small talk, whatever was spoken of before, unless it is nearer to what callers ask: "is
that right" is no "that's right"."""
FOREIGN_SMALL_TALK_COSINE = 0.7
"""The same for one with words that the base does not have ("could you repeat that")."""
WITHIN_QUESTION_WEIGHT = 2.0
"""What the bare question counts when an article's passage is chosen: the conversation says which article, the question
which part of it. Of a loaner car, "how old do i have to be for that" asks for the conditions."""
RELEVANCE_WEIGHT = 0.2
"""What the kind of a question adds to its evidence: a base of passports is asked about passports all the same."""
MIN_LEANING_RELEVANCE = -0.4
FOREIGN_WORD_RELEVANCE = 0.3
"""A question leans on what was said before unless it is of the off-topic kind; each word that neither the base nor the
conversation has makes that likelier. "what about water" leans; "what about water on the moon" does not."""


@dataclass(frozen=True, slots=True)
class Result:
    """One article that answers.

    Attributes:
        source: The article.
        title: Title and headings of its best passage.
        text: The passage.
        score: Fused evidence, comparable within a base.
        passage_id: Stable id of the passage.
        highlights: Spans of its text that answer; empty where nobody asked for them.
    """

    source: str
    title: str
    text: str
    score: float
    passage_id: str
    highlights: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search found.

    Attributes:
        results: Best first, one a source; empty when abstained.
        evidence: Highest evidence, to be compared with `threshold`.
        threshold: Calibrated at ingest.
        topic: What the conversation was taken to be about; empty without context.
        generation: That was searched; part of the key of an answer cache.
        stages_ms: Duration of each sub-stage.
    """

    results: tuple[Result, ...]
    evidence: float
    threshold: float
    topic: str
    generation: int
    stages_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def abstained(self) -> bool:
        """Whether nothing answers."""
        return not self.results


class Search:
    """One question under way. Three steps, so that the caller embeds where its vectors are.

    The question's vector is the one its utterance already has: `embed_first` names the texts, `gist` the one text more
    that a conversation needs.
    """

    def __init__(self, generation: Generation, query: Query, viewer: Viewer) -> None:
        """Begin.

        Args:
            generation: Opened.
            query: From `build_query`.
            viewer: Whose rights apply.
        """
        self._generation = generation
        self._query = query
        self._allowed = generation.content.allowed(viewer)
        self._topic = Topic()
        self._vectors: EmbeddingArray | None = None
        self._candidates: Candidates | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts whose vectors `listen` takes."""
        return self._query.texts

    @property
    def question_vector(self) -> EmbeddingArray:
        """`[1, dims] float32`, once `listen` has been called."""
        assert self._vectors is not None
        return self._vectors[:1]

    def listen(self, vectors: EmbeddingArray) -> str:
        """Find out what the conversation is about; cheap, whatever the base holds.

        Args:
            vectors: `[texts, dims] float32`, of `texts`.

        Returns:
            The gist, whose vector `answer` takes; empty: none is needed.
        """
        anchors = self._generation.anchors
        self._vectors = vectors
        if self._query.turns:
            turns = vectors[1:]
            self._topic = weigh_turns(self._query, anchors.topicality(turns), anchors.nearest_boundary(turns))
        return self._topic.gist

    def answer(self, gist_vector: EmbeddingArray | None, top_k: int = 3) -> tuple[tuple[Result, ...], float]:
        """Order what was found, or abstain.

        Args:
            gist_vector: `[1, dims] float32` of the gist; None if there was none.
            top_k: Most results.

        Returns:
            Results and the highest evidence.
        """
        assert self._vectors is not None, "listen first"
        generation, topic = self._generation, self._topic
        if self._allowed is not None and not self._allowed.any():
            return (), 0.0
        # One row each: the question, the topical turns, the gist.
        texts = [self._query.question, *(self._query.turns[number].text for number in topic.turns)]
        rows = [self._vectors[:1], *(self._vectors[number + 1 : number + 2] for number in topic.turns)]
        context_share = self._query.context_share
        weights = [QUESTION_WEIGHT, *(context_share * topic.weights).tolist()]
        if gist_vector is not None:
            texts.append(topic.gist)
            rows.append(gist_vector)
            weights.append(context_share * GIST_WEIGHT)
        words = [query_terms(text) for text in texts]
        vectors, lexical = np.concatenate(rows), lexical_scores(generation, words)
        self._candidates = candidates(generation, vectors, lexical, self._allowed)
        if not len(self._candidates.passages):
            return (), 0.0
        found = score(generation, self._candidates, vectors, lexical)
        calibration = generation.manifest.calibration
        threshold = calibration.threshold
        said = {term for heard in words[1:-1] for term in heard}
        relevance = float(generation.anchors.relevance(self.question_vector, found.passages[:, :1].max(0))[0])
        num_foreign = count_foreign_words(
            self._query.question, words[0], lambda term: term in said or generation.lexical.knows(term)
        )
        evidence = float(found.parts[:, 0].max()) + RELEVANCE_WEIGHT * min(relevance, 0.0)
        if self._is_small_talk(num_foreign):
            evidence = min(evidence, 0.0)
        elif relevance > MIN_LEANING_RELEVANCE + FOREIGN_WORD_RELEVANCE * num_foreign:
            evidence = max(evidence, float(found.parts.max()))
            if gist_vector is not None:  # said in a call for service: what is meant is likely to be in the base
                threshold = calibration.off_topic_p50
        if evidence < threshold:
            return (), evidence
        share = np.array(weights, np.float32) / sum(weights)
        within = np.array([WITHIN_QUESTION_WEIGHT, *weights[1:]], np.float32)
        return self._results(found.parts @ share, found.passages @ within, top_k), evidence

    def _is_small_talk(self, num_foreign: int) -> bool:
        anchors = self._generation.anchors
        nearest = float(anchors.nearest_small_talk(self.question_vector)[0])
        asked = float(anchors.nearest_asked(self.question_vector)[0])
        return nearest > max(asked, FOREIGN_SMALL_TALK_COSINE if num_foreign else SMALL_TALK_COSINE)

    def _results(self, ranked: NDArray[np.float32], passages: NDArray[np.float32], top_k: int) -> tuple[Result, ...]:
        content, chosen = self._generation.content, self._candidates
        assert chosen is not None
        results: list[Result] = []
        taken: set[int] = set()
        words: list[frozenset[str]] = []
        ends = np.append(chosen.starts[1:], len(chosen.passages))
        for row in np.argsort(-ranked, kind="stable"):
            article = int(content.article_of[chosen.parts[row]])
            if article in taken:
                continue
            taken.add(article)
            span = slice(chosen.starts[row], ends[row])
            passage = content.passages[int(chosen.passages[span][int(np.argmax(passages[span]))])]
            own_words = frozenset(f"{passage.title_path} {passage.text}".lower().split())
            if any(_is_near(own_words, other) for other in words):
                continue
            words.append(own_words)
            results.append(Result(passage.source, passage.title_path, passage.text, float(ranked[row]), passage.id))
            if len(results) == top_k:
                break
        return tuple(results)


class KnowledgeBase:
    """A base that is searched while it changes: a new generation is opened when it is published.

    Methods may be called from any thread; a search keeps the generation it began with.
    """

    def __init__(
        self, data: Path, tenant: str, base: str, embedder: Embedder, executor: Executor | None = None
    ) -> None:
        """Address a base; `generation` opens it.

        Args:
            data: The data directory.
            tenant: Owner.
            base: Name.
            embedder: Must be the one that built it.
            executor: Threads that search, so that an event loop need not; None: the caller's own thread.

        Raises:
            BadQuery: If a name is none.
        """
        self.store = BaseStore(data, tenant, base)
        self._embedder = embedder
        self._executor = executor
        self._sentences: OrderedDict[str, EmbeddingArray] = OrderedDict()
        self._lock = threading.Lock()
        self._opened: tuple[int, Generation] | None = None

    def generation(self) -> Generation:
        """Return the current generation, opened; a few milliseconds when it has just changed.

        Raises:
            NoSuchBase: If there is none (any more).
            DamagedIndex: If it cannot be opened.
            EncoderMismatch: If another encoder built it.
        """
        number = self.store.current()
        with self._lock:
            if self._opened is None or self._opened[0] != number:
                if not self.store.path(number).is_dir():
                    raise NoSuchBase(f"there is no knowledge base {self.store.base}", field="kb")
                # First: what another version wrote may hold other phrases than this one knows, and is not damaged.
                self.store.manifest(number).check_encoder(self._embedder.identity, self.store.tenant)
                opened = Generation.open(self.store, number)
                if opened.manifest.generation != number:
                    raise DamagedIndex(f"generation {number} of {self.store.base} says it is another", field="kb")
                self._opened = (number, opened)
            return self._opened[1]

    @property
    def names(self) -> tuple[str, ...]:
        """What a recogniser should know of the generation that is open; none before the first."""
        opened = self._opened
        return opened[1].manifest.names if opened is not None else ()

    async def search(
        self,
        query: Query,
        *,
        top_k: int = 3,
        viewer: Viewer | None = None,
        highlights: bool = False,
    ) -> Answer:
        """Answer a question.

        Args:
            query: From `build_query`.
            top_k: Most results.
            viewer: Whose rights apply; None: what everybody may see.
            highlights: Find out which sentences of the best passage answer.

        Raises:
            BadQuery: If `top_k` is out of range.
            RetrievalError: As `generation`.
        """
        if not 1 <= top_k <= MAX_TOP_K:
            raise BadQuery(f"expected 1 to {MAX_TOP_K}", field="top_k")
        clock = _Clock()
        generation = await self._run(self.generation)
        clock.lap("open")
        search = Search(generation, query, viewer or Viewer())
        vectors = await self._embedder.embed(search.texts)
        clock.lap("embed")
        gist = search.listen(vectors)
        clock.lap("listen")
        gist_vector = None
        if gist:
            gist_vector = await self._embedder.embed([gist])
            clock.lap("embed_gist")
        results, evidence = await self._run(lambda: search.answer(gist_vector, top_k))
        clock.lap("search")
        if highlights and results:
            asked = search.question_vector
            asked = asked if gist_vector is None else np.concatenate([asked, gist_vector])
            results = (await self._highlighted(results[0], asked), *results[1:])
            clock.lap("embed_sentences")
        return Answer(
            results,
            evidence,
            generation.manifest.calibration.threshold,
            gist,
            generation.manifest.generation,
            clock.stages_ms,
        )

    async def _highlighted(self, result: Result, asked: EmbeddingArray) -> Result:
        spans = sentences(result.text)
        if len(spans) == 1:
            return replace(result, highlights=spans)
        vectors = self._sentences.get(result.passage_id)
        if vectors is None:
            vectors = await self._embedder.embed(sentence_texts(result.title, result.text, spans))
            self._sentences[result.passage_id] = vectors
            while len(self._sentences) > MAX_KNOWN_SENTENCES:
                self._sentences.popitem(last=False)
        return replace(result, highlights=choose(spans, vectors, asked))

    async def _run(self, work: Callable[[], T]) -> T:
        if self._executor is None:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


class _Clock:
    def __init__(self) -> None:
        self.stages_ms: dict[str, float] = {}
        self._last_s = time.perf_counter()

    def lap(self, stage: str) -> None:
        now_s = time.perf_counter()
        self.stages_ms[stage] = (now_s - self._last_s) * 1e3
        self._last_s = now_s


def count_foreign_words(question: str, weights: Mapping[str, float], knows: Callable[[str], bool]) -> int:
    """Count the words of a question that were not said before and that the base has not.

    Args:
        question: As asked.
        weights: Its terms and their synonyms; a synonym that is known makes up for one word.
        knows: Whether a term is known.
    """
    own = set(terms(question))
    num_foreign = sum(not knows(term) for term in own)
    return max(num_foreign - any(knows(term) for term in weights if term not in own), 0)


def _is_near(a: frozenset[str], b: frozenset[str]) -> bool:
    return len(a & b) >= NEAR_DUPLICATE_SHARE * len(a | b)
