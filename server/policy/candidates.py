"""Which moments of one speaker can hold at all, given what was said and claimed: most of a policy never is judged.

Conditions are built of `any` and `all`, never of `not`: without a single leaf that may hold, none of them does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING, Any

from server.policy.rules import KEEP_MARGIN, SEMANTIC_OUTPUT, Lexical, Moment, Semantic, leaves

if TYPE_CHECKING:
    from server.policy.conditions import Claim


class Candidates:
    """An index over the moments of one speaker. Immutable.

    Args:
        moments: As declared.
    """

    def __init__(self, moments: Iterable[Moment]) -> None:
        self._moments = tuple(moments)
        self._index = {moment.id: index for index, moment in enumerate(self._moments)}
        self._absences = [index for index, moment in enumerate(self._moments) if moment.is_absence]
        self._by_words: dict[str, list[int]] = {}
        self._by_claim: dict[str, dict[str, list[tuple[float, int]]]] = {}
        for index, moment in enumerate(self._moments):
            for leaf in leaves(moment.condition):
                if isinstance(leaf, Lexical):
                    self._by_words.setdefault(leaf.path, []).append(index)
                elif isinstance(leaf, Semantic):
                    self._add(SEMANTIC_OUTPUT, leaf.path, -inf, index)
                else:
                    for label in leaf.labels or ("",):
                        self._add(leaf.output, label, leaf.min_score - KEEP_MARGIN, index)

    def _add(self, output: str, label: str, least: float, index: int) -> None:
        self._by_claim.setdefault(output, {}).setdefault(label, []).append((least, index))

    def of(self, said: Iterable[str], claims: Mapping[str, Claim], open_ids: Collection[str]) -> list[Moment]:
        """Return those to judge, as declared: what may hold, absences, and what held before on the same utterance.

        Args:
            said: Paths of the lexical conditions whose words occur.
            claims: By output.
            open_ids: Moments that something is remembered of.
        """
        found = set(self._absences)
        for path in said:
            found.update(self._by_words.get(path, ()))
        for output, by_label in self._by_claim.items():
            claim = claims.get(output)
            if claim is not None and claim.value:
                for label, score in _claimed(claim.value):
                    for least, index in by_label.get(label, ()):
                        if score >= least:
                            found.add(index)
        for name in open_ids:
            found.add(self._index[name])
        return [self._moments[index] for index in sorted(found)]


def _claimed(value: Any) -> Iterator[tuple[str, float]]:
    """Every label with its score that an output's value names, and as `""` the score that stands for itself."""
    for entry in value if isinstance(value, list) else (value,):
        score = entry.get("score")
        if score is not None:
            yield "", score
            if (label := entry.get("label")) is not None:
                yield label, score
        scores = entry.get("scores")
        if scores:
            yield from scores.items()
