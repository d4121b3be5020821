"""Bases written for training → what a search sees of them: the texts that are indexed, and those that are searched for.

service bases ─▶ articles ─▶ passages, parts ─┐
questions ─▶ topic, gist (as in a call) ──────┴▶ tasks for `inference.training`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from inference.request import EmbeddingArray
from inference.training.search_task import SearchTask
from inference.training.service_bases import ServiceBase
from inference.training.tasks import FloatArray
from retrieval.anchors import PHRASES, Anchors
from retrieval.article import Article
from retrieval.chunking import chunk, part_texts
from retrieval.content import Content
from retrieval.conversation import GIST_WEIGHT, QUESTION_WEIGHT, Query, Topic, Turn, build_query, weigh_turns
from retrieval.generation import lexical_index
from retrieval.lexical import LexicalIndex
from retrieval.readers.markdown import read_markdown
from retrieval.scoring import LEXICAL_WEIGHT, PART_WEIGHTS, PASSAGE_WEIGHT
from retrieval.words import merged, query_terms

Embed = Callable[[Sequence[str]], EmbeddingArray]


def search_tasks(bases: Sequence[ServiceBase], off_topic: Sequence[str], embed: Embed) -> list[SearchTask]:
    """See every base and its questions as a search does.

    Args:
        bases: From `read_service_bases`; articles of one part each.
        off_topic: Questions that none of them answers.
        embed: The encoder that tells which turns carry a topic.
    """
    anchors = Anchors.of(embed(PHRASES))
    return [_task(base, off_topic, anchors, embed) for base in bases]


def _task(base: ServiceBase, off_topic: Sequence[str], anchors: Anchors, embed: Embed) -> SearchTask:
    articles: list[Article] = []
    for article in base.articles:
        articles += read_markdown(f"# {article.title}\n\n{article.text}\n".encode(), article.id)
    content = Content.of([passage for article in articles for passage in chunk(article)])
    lexical = lexical_index(content)
    if content.num_parts != len(articles):
        raise ValueError(f"{base.trade}: an article has more than one part")
    asked = [(number, question) for number, article in enumerate(base.articles) for question in article.questions]
    queries = [build_query(question, [Turn(*turn) for turn in turns]) for _, (question, turns) in asked]
    # At once, because the encoder is; a query's own vectors are then rows of these.
    distinct = list(dict.fromkeys(text for query in queries for text in query.texts))
    vectors = dict(zip(distinct, embed(distinct), strict=True))
    known: dict[str, int] = {}
    words: list[Mapping[str, float]] = []
    shares: list[dict[int, float]] = []
    last: list[int] = []
    for query in queries:
        topic = _topic(query, anchors, vectors)
        weighed = [(query.question, QUESTION_WEIGHT)]
        weighed += [(query.turns[n].text, float(w)) for n, w in zip(topic.turns, topic.weights, strict=True)]
        said = [query_terms(text) for text, _ in weighed]
        if topic.gist:
            weighed.append((topic.gist, GIST_WEIGHT))
            said.append(merged(said))
        row: dict[int, float] = {}
        for (text, weight), its_words in zip(weighed, said, strict=True):
            number = known.setdefault(text, len(known))
            if number == len(words):
                words.append(its_words)
            row[number] = row.get(number, 0.0) + weight / sum(w for _, w in weighed)
        shares.append(row)
        last.append(known[weighed[-1][0]])
    dense = np.zeros((len(shares), len(known)), np.float32)
    for place, row in enumerate(shares):
        dense[place, list(row)] = list(row.values())
    return SearchTask(
        name=base.trade,
        passages=tuple(passage.embedded for passage in content.passages),
        part_of=content.part_of.astype(np.int64),
        parts=tuple(part_texts(content.part(number)) for number in range(content.num_parts)),
        measures=(PASSAGE_WEIGHT, *PART_WEIGHTS),
        texts=tuple(known),
        shares=dense,
        last=np.array(last, np.int64),
        lexical=_lexical(lexical, words),
        answers=np.array([number for number, _ in asked], np.int64),
        off_topic=tuple(off_topic),
        off_topic_lexical=_lexical(lexical, [query_terms(text) for text in off_topic]),
    )


def _lexical(index: LexicalIndex, words: Sequence[Mapping[str, float]]) -> FloatArray:
    return np.float32(LEXICAL_WEIGHT) * np.sqrt(np.stack([index.scores(terms) for terms in words]))


def _topic(query: Query, anchors: Anchors, vectors: dict[str, EmbeddingArray]) -> Topic:
    if not query.turns:
        return Topic()
    turns = np.stack([vectors[turn.text] for turn in query.turns])
    return weigh_turns(query, anchors.topicality(turns), anchors.nearest_boundary(turns))
