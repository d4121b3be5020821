"""Does a condition hold on one revision of an utterance: yes, no, or not known yet.

Outputs of the graph arrive one by one, so a condition is judged in three-valued logic (Kleene): a word pattern can
decide an `any` before the models have answered, and nothing is taken for a no that was only not yet asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from server.policy.rulebook import RuleBook
from server.policy.rules import SEMANTIC_OUTPUT, AllOf, AnyOf, Condition, Lexical, OutputIs, Semantic, leaves
from server.wire.ids import Speaker

RIVAL_MARGIN = 0.05
"""A semantic claim this much weaker than the best one on the same words is not believed: phrases of one trade are all
somewhat alike, and the nearest is what was meant. Small enough that two moments in one sentence can both hold."""

NEGATIVES_LABEL = "negatives"
"""Label of the general negatives in a `PrototypeSet`. Nearer to one of them than to the phrase: nothing was meant."""

MIN_TURN_WORDS = 3
"""A shorter turn ("okay, sure") neither extends nor breaks a run of `for_turns`."""


class Claim(msgspec.Struct, array_like=True, gc=False):
    """What a model said of a revision; `value` None where the graph's `when` was false.

    Hidden from the collector: a value is plain JSON and never leads back here.
    """

    value: Any
    model: str = ""
    version: int = 0


class View(msgspec.Struct, array_like=True):
    """One revision of an utterance with the claims that have arrived for it."""

    revision: int
    text: str = ""
    words: str = ""
    is_final: bool = False
    claims: dict[str, Claim] = {}

    @property
    def is_turn(self) -> bool:
        """Long enough to count for `for_turns`."""
        return self.words.count(" ") + 1 >= MIN_TURN_WORDS


@dataclass(frozen=True, slots=True)
class Hit:
    """What made a condition hold."""

    path: str
    phrase: str = ""
    score: float | None = None
    model: str = ""
    version: int = 0

    @property
    def strength(self) -> float:
        """Score for ranking; words that were said count as certain."""
        return 1.0 if self.score is None else self.score


@dataclass(frozen=True, slots=True)
class Verdict:
    """`holds` None: not known yet. `hit` is set where it holds."""

    holds: bool | None
    hit: Hit | None = None


_NO = Verdict(False)
_UNKNOWN = Verdict(None)


class Judge:
    """Judges conditions of one call. Remembers what the words of the last view said; otherwise without state.

    Args:
        book: The rules whose conditions are judged.
        run_of: Number of turns in a row before this one on which the leaf of a path held.
    """

    def __init__(self, book: RuleBook, run_of: Callable[[str], int]) -> None:
        self._book = book
        self._run_of = run_of
        self._view: View | None = None
        self._said: dict[str, Verdict] = {}

    def said(self, view: View, speaker: Speaker) -> Mapping[str, Verdict]:
        """Find the words of all lexical conditions of a speaker, by path; before conditions are judged on a view."""
        if view is not self._view:
            self._view = view
            found = self._book.lexicons[speaker].find(view.words)
            self._said = {path: Verdict(True, Hit(path, pattern.source)) for path, pattern in found.items()}
        return self._said

    def judge(self, condition: Condition, view: View, margin: float = 0.0) -> Verdict:
        """Judge a condition on a view, its thresholds lowered by `margin`."""
        match condition:
            case Lexical():
                return self._said.get(condition.path, _NO)
            case Semantic():
                return self._semantic(condition, view, margin)
            case OutputIs():
                return self._output(condition, view, margin)
            case AnyOf():
                return self._any(condition, view, margin)
            case AllOf():
                return self._all(condition, view, margin)

    def veto(self, negatives: tuple[Semantic | Lexical, ...], condition: Condition, view: View) -> bool | None:
        """True if a negative rules out that a condition holds, None if that is not known yet.

        Words veto whenever they occur. Phrases veto when they are claimed, unless a phrase of the condition itself is
        nearer: whether words or a phrase made it hold, what was meant is what is nearest.
        """
        own = self._nearest(condition, view)
        is_unknown = False
        for negative in negatives:
            verdict = self.judge(negative, view)
            if verdict.hit is not None and not (isinstance(negative, Semantic) and own > verdict.hit.strength):
                return True
            is_unknown = is_unknown or verdict.holds is None
        return None if is_unknown else False

    @staticmethod
    def _nearest(condition: Condition, view: View) -> float:
        """Similarity of the nearest phrase of a condition, 0 where none is near enough to be listed."""
        claim = view.claims.get(SEMANTIC_OUTPUT)
        paths = {leaf.path for leaf in leaves(condition) if isinstance(leaf, Semantic)}
        entries = claim.value or () if claim is not None else ()
        return max((float(entry["score"]) for entry in entries if entry["label"] in paths), default=0.0)

    def _semantic(self, condition: Semantic, view: View, margin: float) -> Verdict:
        if not view.words:
            return _NO
        claim = view.claims.get(SEMANTIC_OUTPUT)
        if claim is None:
            return _UNKNOWN
        threshold = condition.threshold
        if threshold is None:
            threshold = self._book.thresholds.get(condition.path, 0.0)
        rivals = self._book.rivals.get(condition.path, frozenset())
        found: dict[str, Any] | None = None
        for entry in claim.value or ():
            label, score = entry["label"], entry["score"]
            if label == condition.path:
                found = entry
            elif label in rivals:
                threshold = max(threshold, score - RIVAL_MARGIN)
            elif label == NEGATIVES_LABEL:
                threshold = max(threshold, score)
        if found is None or found["score"] < threshold - margin:
            return _NO
        hit = Hit(condition.path, found.get("phrase", ""), found["score"], claim.model, claim.version)
        return Verdict(True, hit)

    def _output(self, condition: OutputIs, view: View, margin: float) -> Verdict:
        if not view.words:
            return _NO
        claim = view.claims.get(condition.output)
        if claim is None:
            return _UNKNOWN
        found = claimed(claim.value, condition.labels, condition.min_score - margin)
        if found is None:
            return _NO
        if condition.for_turns > 1 and (not view.is_turn or self._run_of(condition.path) < condition.for_turns - 1):
            return _NO
        label, score = found
        return Verdict(True, Hit(condition.path, label, score, claim.model, claim.version))

    def _any(self, condition: AnyOf, view: View, margin: float) -> Verdict:
        is_unknown = False
        for inner in condition.conditions:
            verdict = self.judge(inner, view, margin)
            if verdict.holds:
                return verdict
            is_unknown = is_unknown or verdict.holds is None
        return _UNKNOWN if is_unknown else _NO

    def _all(self, condition: AllOf, view: View, margin: float) -> Verdict:
        weakest: Hit | None = None
        is_unknown = False
        for inner in condition.conditions:
            verdict = self.judge(inner, view, margin)
            if verdict.holds is False:
                return _NO
            if verdict.hit is None:
                is_unknown = True
            elif weakest is None or verdict.hit.strength < weakest.strength:
                weakest = verdict.hit
        return _UNKNOWN if is_unknown else Verdict(True, weakest)


def claimed(value: Any, labels: frozenset[str], min_score: float) -> tuple[str, float] | None:
    """Find the best wanted label that an output value claims.

    Args:
        value: As DESIGN 13 prints it: `{label, score, …}`, `[{label, score}]`, `{score}`, `{is_question, score}`, None.
        labels: Wanted labels; empty for an output that is a bare score.
        min_score: Lowest score believed.

    Returns:
        Label (empty for a bare score) and score, or None.
    """
    best: tuple[str, float] | None = None
    for entry in value if isinstance(value, list) else [value] if isinstance(value, dict) else []:
        if labels:
            candidates = entry.get("scores") or {entry.get("label"): entry.get("score")}
            if entry.get("in_scope") is False:
                candidates = {}
        else:
            candidates = {} if entry.get("is_question") is False else {"": entry.get("score")}
        for label, score in candidates.items():
            if label in (labels or {""}) and score is not None and score >= min_score and (not best or score > best[1]):
                best = (label, score)
    return best
