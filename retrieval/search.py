"""Search in one opened base: what answers this question, in this conversation, for this viewer; or nothing.

query ─▶ vectors ─▶ topic ─▶ candidates (rights first) ─▶ evidence ─▶ settled? ─▶ order ─▶ answerable? ─▶ results
                                                             ▲         no │
                                                             └─── gist ◀──┘

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
from retrieval.scoring import Candidates, Evidence, candidates, lexical_scores, score
from retrieval.store import BaseStore
from retrieval.words import merged, query_terms, terms

T = TypeVar("T")
Found = tuple[tuple["Result", ...], float]
"""Results and the highest evidence."""

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

SETTLED_AMONG = 3
SETTLED_MARGIN = 0.16
"""How far an article has to be ahead of the fourth, before the gist is read, for the gist not to be read: it moves few
from that far (docs/knowledge.md)."""


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


@dataclass(slots=True)
class _Heard:
    """What a question and its conversation give a search.

    Attributes:
        words: Terms of each text, the gist's last.
        vectors: `[texts, dims] float32`; zeros for a gist that is not read.
        lexical: `[parts of the base, texts] float32`.
        chosen: What is looked at closely.
        found: Scores of that; None if there is nothing that the viewer may see.
        has_gist: Whether the gist is read.
        own_evidence: What the question says for itself.
        leans: Whether it may be answered by what was said before.
    """

    words: list[dict[str, float]]
    vectors: EmbeddingArray
    lexical: NDArray[np.float32]
    chosen: Candidates
    found: Evidence | None = None
    has_gist: bool = False
    own_evidence: float = 0.0
    leans: bool = False


class Search:
    """One question under way, in steps, so that the caller embeds where its vectors are.

    The question's vector and its turns' are those that their utterances have already: `texts` names them. `listen` asks
    for that of one text more, the gist of a conversation, where this could change what is answered.
    """

    def __init__(self, generation: Generation, query: Query, viewer: Viewer) -> None:
        """Begin.

        Args:
            generation: Opened.
            query: From `build_query`.
            viewer: Whose rights apply.
        """
        self.generation = generation
        self._query = query
        self._allowed = generation.content.allowed(viewer)
        self._topic = Topic()
        self._heard: _Heard | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts whose vectors `listen` takes."""
        return self._query.texts

    @property
    def topic(self) -> str:
        """What the conversation is about, once `listen` has been called; empty without one."""
        return self._topic.gist

    @property
    def asked(self) -> EmbeddingArray:
        """`[texts, dims] float32`, what an answer has to be near to: the question, and what it means in its talk."""
        assert self._heard is not None, "listen first"
        vectors = self._heard.vectors
        if not self._topic.turns:
            return vectors[:1]
        if not self._heard.has_gist:
            mean = self._weights[:-1] @ vectors[:-1]
            return np.stack([vectors[0], mean / np.linalg.norm(mean)])
        return vectors[[0, -1]]

    def listen(self, vectors: EmbeddingArray) -> str:
        """Find out what the conversation is about, and what answers as far as that tells.

        Args:
            vectors: `[texts, dims] float32`, of `texts`.

        Returns:
            The gist, whose vector `answer` takes; empty: none is needed.
        """
        generation, query = self.generation, self._query
        anchors = generation.anchors
        if query.turns:
            turns = vectors[1:]
            self._topic = weigh_turns(query, anchors.topicality(turns), anchors.nearest_boundary(turns))
        # One row each: the question, the topical turns, the gist. Of that the words are known before the vector is.
        texts = [query.question, *(query.turns[number].text for number in self._topic.turns)]
        rows = vectors[[0, *(number + 1 for number in self._topic.turns)]]
        words = [query_terms(text) for text in texts]
        if self._topic.turns:
            words.append(merged(words))
        lexical = lexical_scores(generation, words)
        chosen = candidates(generation, rows, lexical, self._allowed)
        if self._topic.turns:
            rows = np.concatenate([rows, np.zeros_like(rows[:1])])
        self._heard = heard = _Heard(words, rows, lexical, chosen)
        if not len(chosen.passages):
            return ""
        heard.found = score(generation, chosen, rows, lexical)
        self._weigh_question(heard)
        return "" if self._is_settled(heard) else self._topic.gist

    def answer(self, gist_vector: EmbeddingArray | None, top_k: int = 3) -> Found:
        """Order what was found, or abstain.

        Args:
            gist_vector: `[1, dims] float32` of the gist; None if `listen` wanted none.
            top_k: Most results.

        Returns:
            Results and the highest evidence.
        """
        heard = self._heard
        assert heard is not None, "listen first"
        if heard.found is None:
            return (), 0.0
        if gist_vector is not None:
            self._read(heard, gist_vector)
        evidence, threshold = self._evidence(heard)
        if evidence < threshold:
            return (), evidence
        weights = self._weights
        within = np.array([WITHIN_QUESTION_WEIGHT, *weights[1:]], np.float32)
        ranked, passages = heard.found.parts @ (weights / weights.sum()), heard.found.passages @ within
        return self._results(heard.chosen, ranked, passages, top_k), evidence

    @property
    def _weights(self) -> NDArray[np.float32]:
        """`[texts] float32`, what each row counts."""
        topic, share = self._topic, self._query.context_share
        if not topic.turns:
            return np.array([QUESTION_WEIGHT], np.float32)
        return np.array([QUESTION_WEIGHT, *(share * topic.weights).tolist(), share * GIST_WEIGHT], np.float32)

    def _read(self, heard: _Heard, gist_vector: EmbeddingArray) -> None:
        """Put the gist's scores where only those of its words were."""
        assert heard.found is not None
        generation, chosen = self.generation, heard.chosen
        heard.has_gist = True
        heard.vectors[-1] = gist_vector[0]
        read = score(generation, chosen, gist_vector, heard.lexical[:, -1:])
        heard.found.passages[:, -1:], heard.found.parts[:, -1:] = read.passages, read.parts
        if generation.dense.kind == "flat" or len(chosen.passages) == len(generation.content.passages):
            return
        more = candidates(generation, gist_vector, heard.lexical, self._allowed, without=chosen.parts)
        if len(more.passages):
            heard.found = heard.found.and_then(score(generation, more, heard.vectors, heard.lexical))
            heard.chosen = chosen.and_then(more)

    def _weigh_question(self, heard: _Heard) -> None:
        """Find out how far the question answers for itself, and whether it leans on what was said."""
        assert heard.found is not None
        generation, question_vector = self.generation, heard.vectors[:1]
        said = merged(heard.words[1:-1])
        relevance = float(generation.anchors.relevance(question_vector, heard.found.passages[:, :1].max(0))[0])
        num_foreign = count_foreign_words(
            self._query.question, heard.words[0], lambda term: term in said or generation.lexical.knows(term)
        )
        heard.own_evidence = float(heard.found.parts[:, 0].max()) + RELEVANCE_WEIGHT * min(relevance, 0.0)
        if self._is_small_talk(question_vector, num_foreign):
            heard.own_evidence = min(heard.own_evidence, 0.0)
        else:
            heard.leans = relevance > MIN_LEANING_RELEVANCE + FOREIGN_WORD_RELEVANCE * num_foreign

    def _is_small_talk(self, question_vector: EmbeddingArray, num_foreign: int) -> bool:
        anchors = self.generation.anchors
        nearest = float(anchors.nearest_small_talk(question_vector)[0])
        asked = float(anchors.nearest_asked(question_vector)[0])
        return nearest > max(asked, FOREIGN_SMALL_TALK_COSINE if num_foreign else SMALL_TALK_COSINE)

    def _evidence(self, heard: _Heard) -> tuple[float, float]:
        """Return the evidence that something answers, and what it has to reach."""
        assert heard.found is not None
        calibration = self.generation.manifest.calibration
        if not heard.leans:
            return heard.own_evidence, calibration.threshold
        evidence = max(heard.own_evidence, float(heard.found.parts.max()))
        if self._topic.turns:  # said in a call for service: what is meant is likely to be in the base
            return evidence, calibration.off_topic_p50
        return evidence, calibration.threshold

    def _is_settled(self, heard: _Heard) -> bool:
        """Whether the gist need not be read: there is none, nothing is to be answered, or an article is far ahead."""
        assert heard.found is not None
        is_hopeless = not heard.leans and heard.own_evidence < self.generation.manifest.calibration.threshold
        if is_hopeless or not self._topic.turns:
            return True
        weights = self._weights
        ranked = heard.found.parts @ (weights / weights[:-1].sum())
        articles = self.generation.content.article_of[heard.chosen.parts]
        best = np.sort(np.maximum.reduceat(ranked, np.flatnonzero(np.diff(articles, prepend=-1))))[::-1]
        return bool(best[0] - best[min(SETTLED_AMONG, len(best) - 1)] > SETTLED_MARGIN)

    def _results(
        self, chosen: Candidates, ranked: NDArray[np.float32], passages: NDArray[np.float32], top_k: int
    ) -> tuple[Result, ...]:
        content = self.generation.content
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
        vectors = await self._embedder.embed(query.texts)
        clock.lap("embed")
        search, gist, found = await self._run(lambda: self._begin(query, viewer or Viewer(), vectors, top_k))
        clock.lap("listen")
        if found is None:
            gist_vector = await self._embedder.embed([gist])
            clock.lap("embed_gist")
            found = await self._run(lambda: search.answer(gist_vector, top_k))
            clock.lap("search")
        results, evidence = found
        if highlights and results:
            results = (await self._highlighted(results[0], search.asked), *results[1:])
            clock.lap("embed_sentences")
        manifest = search.generation.manifest
        return Answer(
            results, evidence, manifest.calibration.threshold, search.topic, manifest.generation, clock.stages_ms
        )

    def _begin(
        self, query: Query, viewer: Viewer, vectors: EmbeddingArray, top_k: int
    ) -> tuple[Search, str, Found | None]:
        """Search as far as it goes without the vector of a gist: the search, the gist, what was found without one."""
        search = Search(self.generation(), query, viewer)
        gist = search.listen(vectors)
        return search, gist, None if gist else search.answer(None, top_k)

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
