"""How well a base answers a set of questions: lines `{question, context?, relevant}` in, numbers out.

`relevant` is a source or a list of sources; empty or null marks a question the base does not answer, where abstaining
is right. A source that the base does not have is refused: nothing could find it, and every figure would be too low.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from retrieval.article import Viewer
from retrieval.conversation import Turn, build_query, parse_context
from retrieval.errors import BadQuery
from retrieval.search import Answer, KnowledgeBase

DEPTH = 10
"""Results asked for; MRR and nDCG look so far."""
MAX_NAMED = 5
"""Sources that an error names."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question of an evaluation set.

    Attributes:
        question: As asked.
        context: Conversation before it.
        relevant: Sources that answer; empty: none does.
        line: Of the set, from 1.
    """

    question: str
    context: tuple[Turn, ...]
    relevant: frozenset[str]
    line: int


class Percentiles(msgspec.Struct, frozen=True):
    """Latency of one sub-stage, milliseconds."""

    p50: float
    p95: float
    p99: float


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation found. Ratios are null where nothing was asked.

    Attributes:
        questions: All of them.
        answerable: Those with a relevant source.
        recall_at_1: Share of the answerable whose first result is relevant. An abstained one has none.
        recall_at_3: Share with a relevant one among three.
        recall_at_5: Among five.
        mrr: Mean of one over the rank of the first relevant result.
        ndcg: At ten, binary relevance.
        abstained: Questions answered by nothing.
        abstention_precision: Share of the abstained that nothing answers.
        abstention_recall: Share of the unanswerable that were abstained.
        latency_ms: By sub-stage, and `retrieval` (all but the encoder) and `total`.
    """

    questions: int
    answerable: int
    recall_at_1: float | None
    recall_at_3: float | None
    recall_at_5: float | None
    mrr: float | None
    ndcg: float | None
    abstained: int
    abstention_precision: float | None
    abstention_recall: float | None
    latency_ms: dict[str, Percentiles]


def read_cases(lines: Iterable[bytes]) -> list[Case]:
    """Read an evaluation set.

    Raises:
        BadQuery: With line and field of the first wrong value, or if there is no line.
    """
    cases = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise BadQuery("is no valid JSON", field=f"line {number}") from error
        try:
            cases.append(_case(value, number))
        except BadQuery as error:
            raise BadQuery(error.message, field=f"line {number}: {error.field}") from error
    if not cases:
        raise BadQuery("holds no question", field="file")
    return cases


async def evaluate(
    base: KnowledgeBase,
    cases: Sequence[Case],
    *,
    viewer: Viewer | None = None,
) -> tuple[Scores, list[Answer]]:
    """Ask every question, one after the other.

    Returns:
        Scores, and the answer to each case.

    Raises:
        BadQuery: A case cannot be asked, or names a source that the base does not have or does not show this viewer.
        RetrievalError: As `KnowledgeBase.search`.
    """
    viewer = viewer or Viewer()
    content = base.generation().content
    check_sources(cases, content.sources(), content.sources(viewer))
    answers = []
    for case in cases:
        try:
            query = build_query(case.question, case.context)
        except BadQuery as error:
            raise BadQuery(error.message, field=f"line {case.line}: {error.field}") from error
        answers.append(await base.search(query, top_k=DEPTH, viewer=viewer))
    return score_answers(cases, answers), answers


def check_sources(cases: Sequence[Case], known: Collection[str], shown: Collection[str]) -> None:
    """Refuse a set that wants what no search can find.

    Args:
        cases: The set.
        known: Sources of the base.
        shown: Those that the viewer may see.

    Raises:
        BadQuery: Names the first few sources with their lines.
    """
    missing = [(case.line, source) for case in cases for source in sorted(case.relevant - set(shown))]
    if not missing:
        return
    named = [
        f"line {line} `{source}`{' (asks for a right or a queue)' if source in known else ''}"
        for line, source in missing[:MAX_NAMED]
    ]
    rest = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    raise BadQuery(f"the base shows no such article: {', '.join(named)}{rest}", field="relevant")


def score_answers(cases: Sequence[Case], answers: Sequence[Answer]) -> Scores:
    """Compare answers with what is relevant. Pure."""
    ranks: list[list[int]] = []
    ndcg: list[float] = []
    for case, answer in zip(cases, answers, strict=True):
        if not case.relevant:
            continue
        hits = [rank for rank, result in enumerate(answer.results, 1) if result.source in case.relevant]
        ranks.append(hits)
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(case.relevant), DEPTH) + 1))
        ndcg.append(sum(1 / math.log2(rank + 1) for rank in hits) / ideal)
    abstained = [not case.relevant for case, answer in zip(cases, answers, strict=True) if answer.abstained]
    unanswerable = [answer.abstained for case, answer in zip(cases, answers, strict=True) if not case.relevant]

    def recall(k: int) -> float | None:
        return _mean([bool(hits) and hits[0] <= k for hits in ranks])

    return Scores(
        questions=len(cases),
        answerable=len(ranks),
        recall_at_1=recall(1),
        recall_at_3=recall(3),
        recall_at_5=recall(5),
        mrr=_mean([1 / hits[0] if hits else 0.0 for hits in ranks]),
        ndcg=_mean(ndcg),
        abstained=len(abstained),
        abstention_precision=_mean(abstained),
        abstention_recall=_mean(unanswerable),
        latency_ms=_latency(answers),
    )


def _latency(answers: Sequence[Answer]) -> dict[str, Percentiles]:
    stages: dict[str, list[float]] = {}
    for answer in answers:
        for stage, duration_ms in answer.stages_ms.items():
            stages.setdefault(stage, []).append(duration_ms)
        own = sum(ms for stage, ms in answer.stages_ms.items() if not stage.startswith("embed"))
        stages.setdefault("retrieval", []).append(own)
        stages.setdefault("total", []).append(sum(answer.stages_ms.values()))
    return {
        stage: Percentiles(*(round(float(np.percentile(values, q)), 3) for q in (50, 95, 99)))
        for stage, values in stages.items()
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _case(value: Any, line: int) -> Case:
    if not isinstance(value, dict):
        raise BadQuery("expected an object", field="$")
    question = value.get("question", value.get("query"))
    if not isinstance(question, str):
        raise BadQuery("expected a string", field="question")
    relevant = value.get("relevant")
    relevant = [relevant] if isinstance(relevant, str) else relevant or []
    if not isinstance(relevant, list) or not all(isinstance(source, str) for source in relevant):
        raise BadQuery("expected a source or a list of sources", field="relevant")
    return Case(question, parse_context(value.get("context")), frozenset(filter(None, relevant)), line)
