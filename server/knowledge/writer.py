"""The second step of an answer card: a model writes it from the passages, sentence by sentence, each checked.

    Question, Answer ─▶ hide personal data ─▶ prompt ─▶ Generator ─▶ Sentences ─▶ supported? ─▶ body so far

Identical questions are answered from memory, which dies with the index version they were answered from.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing

from inference.generation import Ask, GenerationError, Generator
from retrieval.conversation import Turn
from retrieval.highlight import sentences
from retrieval.manifest import Embedder
from retrieval.search import Answer
from server.knowledge.grounding import Sentence, Sentences, Source, is_supported, prompt
from server.knowledge.health import EndpointHealth
from server.knowledge.masking import Masks
from server.knowledge.questions import Question
from server.metrics import Metrics
from server.policy.words import normalise

MAX_REMEMBERED = 2048
"""Answers; a few hundred bytes each."""
MIN_COSINE = 0.45
"""Between a sentence and the passage it cites. Words can agree where meaning does not; below this it never did."""

_Key = tuple[str, str, str, tuple[str, ...]]


class Writer:
    """Writes answers for all calls. Event-loop thread only.

    Args:
        generator: Writes text.
        embedder: Compares sentences with passages.
        metrics: Counts sentences.
        max_tokens: Longest answer.
    """

    def __init__(self, generator: Generator, embedder: Embedder, metrics: Metrics, max_tokens: int = 200) -> None:
        self._generator = generator
        self._embedder = embedder
        self._metrics = metrics
        self._max_tokens = max_tokens
        self._health = EndpointHealth()
        self._remembered: OrderedDict[_Key, str] = OrderedDict()
        self._generations: dict[tuple[str, str], int] = {}

    async def write(self, tenant: str, base: str, question: Question, answer: Answer) -> AsyncGenerator[str, None]:
        """Give the answer as far as it is written, after each sentence; nothing if no sentence is supported.

        Args:
            tenant: Whose prompts are kept apart from others'.
            base: That was searched.
            question: As asked.
            answer: What was found; not abstained.

        Raises:
            GenerationError: The endpoint failed; what was given before stands.
        """
        masks = Masks()
        asked = masks.hide(question.text)
        turns = [Turn(turn.speaker, masks.hide(turn.text)) for turn in question.context]
        key = (tenant, base, normalise(f"{asked} {answer.topic}"), tuple(r.passage_id for r in answer.results))
        self._forget_older(tenant, base, answer.generation)
        known = self._remembered.get(key)
        if known is not None:
            self._metrics.knowledge_sentences.labels("remembered").inc()
            yield known
            return
        sources = [Source(result.title, result.text) for result in answer.results]
        ask = Ask(prompt(sources, turns, asked), tenant, self._max_tokens)
        written: list[str] = []
        is_whole = True
        async with aclosing(self._sentences(ask)) as stream:
            async for sentence in stream:
                cited = await self._checked(sentence, sources, asked)
                is_whole = is_whole and cited is not None
                if cited is not None:
                    written.append(cited)
                    yield masks.reveal(" ".join(written))
        body = " ".join(written)
        if body and is_whole and not masks:  # one customer's data must not reach another's card
            self._remembered[key] = body
            while len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)

    async def _sentences(self, ask: Ask) -> AsyncGenerator[Sentence, None]:
        """Sentences as they are complete; of a stream that breaks, the half one is left out."""
        cutter = Sentences()
        try:
            async with aclosing(self._generator.stream(ask)) as pieces:
                async for piece in pieces:
                    for sentence in cutter.feed(piece):
                        yield sentence
        except GenerationError as error:
            self._health.failed(error)
            raise
        self._health.wrote()
        for sentence in cutter.close():
            yield sentence

    async def _checked(self, sentence: Sentence, sources: list[Source], asked: str) -> str | None:
        """Return a sentence that one of the passages it names supports, with that citation; None for any other."""
        for number in sentence.cites:
            if 1 <= number <= len(sources) and is_supported(sentence.text, sources[number - 1], asked):
                source = sources[number - 1]
                told = [source.text, f"{source.title}: {source.text}"]
                told += [source.text[start:end] for start, end in sentences(source.text)]
                vectors = await self._embedder.embed([sentence.text, *told])
                if float((vectors[1:] @ vectors[0]).max()) >= MIN_COSINE:
                    self._metrics.knowledge_sentences.labels("supported").inc()
                    return f"{sentence.text} [{number}]"
        self._metrics.knowledge_sentences.labels("unsupported").inc()
        return None

    def _forget_older(self, tenant: str, base: str, generation: int) -> None:
        if self._generations.get((tenant, base)) != generation:
            self._generations[tenant, base] = generation
            for key in [key for key in self._remembered if key[:2] == (tenant, base)]:
                del self._remembered[key]
