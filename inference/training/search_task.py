"""What a search head learns from: a base as it is indexed, and questions as they are searched for. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.training.tasks import FloatArray


@dataclass(frozen=True, slots=True)
class SearchTask:
    """A base, and questions to it, as a search sees them.

    Attributes:
        name: Of the base.
        passages: Texts of passages, those of a part together.
        part_of: `[passages] int64`, ascending.
        parts: For each part the texts that it is measured by besides; as many for each.
        measures: What the cosines count: of a part's best passage, then of each kind of its texts.
        texts: Of all questions: what was asked, turns, gists.
        shares: `[questions, texts] float32`, what each text counts; a row sums to one.
        last: `[questions] int64`, the text that says most: a gist, or the question itself.
        lexical: `[texts, parts] float32`, added to the cosines.
        answers: `[questions] int64`, part that answers.
        off_topic: Questions that nothing answers.
        off_topic_lexical: `[off_topic, parts] float32`, as `lexical`.
    """

    name: str
    passages: tuple[str, ...]
    part_of: NDArray[np.int64]
    parts: tuple[tuple[str, ...], ...]
    measures: tuple[float, ...]
    texts: tuple[str, ...]
    shares: FloatArray
    last: NDArray[np.int64]
    lexical: FloatArray
    answers: NDArray[np.int64]
    off_topic: tuple[str, ...]
    off_topic_lexical: FloatArray

    @property
    def documents(self) -> list[str]:
        """Texts of passages, then of parts, kind by kind."""
        return [*self.passages, *(text for kind in zip(*self.parts, strict=True) for text in kind)]

    @property
    def is_direct(self) -> NDArray[np.bool_]:
        """`[questions] bool`, those without a conversation."""
        return np.asarray((self.shares > 0).sum(1) == 1)
