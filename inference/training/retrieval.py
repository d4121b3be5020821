"""Does the vector to search by find what answers? A small set of our own, asked plainly and as callers do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from inference.training.readers import DataError
from inference.training.tasks import FloatArray

SET = Path(__file__).with_name("retrieval.yaml")


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Passages, and for each the questions it answers.

    Attributes:
        passages: The knowledge base.
        questions: Kind of question (`direct`, `caller`) to one question a passage, in their order.
    """

    passages: tuple[str, ...]
    questions: dict[str, tuple[str, ...]]


def read_retrieval_set(path: Path = SET) -> RetrievalSet:
    """Read the set.

    Raises:
        DataError: If the file is no list of passages with questions.
    """
    try:
        rows = yaml.safe_load(path.read_text("utf-8"))
        kinds = [kind for kind in rows[0] if kind != "passage"]
        questions = {kind: tuple(str(row[kind]) for row in rows) for kind in kinds}
        return RetrievalSet(tuple(str(row["passage"]) for row in rows), questions)
    except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: {error!r}") from error


def score_retrieval(questions: RetrievalSet, embed: Callable[[Sequence[str]], FloatArray]) -> dict[str, float]:
    """Search every question by cosine.

    Returns:
        `<kind>_recall_at_1`, `<kind>_recall_at_3` and `<kind>_mrr` of each kind of question.
    """
    passages = embed(questions.passages)
    found: dict[str, float] = {}
    for kind, texts in questions.questions.items():
        similarity = embed(texts) @ passages.T
        own = np.diagonal(similarity)
        rank = (similarity > own[:, None]).sum(1) + 1
        found[f"{kind}_recall_at_1"] = float((rank == 1).mean())
        found[f"{kind}_recall_at_3"] = float((rank <= 3).mean())
        found[f"{kind}_mrr"] = float((1 / rank).mean())
    return found
