"""What all calls of one policy version share: its moments, indexed for judging. Immutable, built once a version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from server.policy.rules import Lexical, Moment, OutputIs, Policy, Semantic, leaves
from server.policy.words import PatternIndex, WordPattern
from server.wire.ids import Speaker


class RuleBook:
    """A policy made ready.

    Args:
        policy: The rules.
        thresholds: Calibrated threshold of each semantic path (`server.policy.prototypes.calibrated`); where one is
            missing, every claim of the `moments` output is believed as listed.

    Attributes:
        policy: The rules.
        thresholds: As given.
        moments: By id.
        absences: Moments that happen when something is not said.
        runs: Conditions that have to hold for several turns, with the speaker of these.
        rivals: Semantic paths that compete for the words of each semantic path.
        lexicon: All patterns, by the path of their condition.
    """

    def __init__(self, policy: Policy, thresholds: Mapping[str, float] | None = None) -> None:
        self.policy = policy
        self.thresholds = dict(thresholds or {})
        self.moments = {moment.id: moment for moment in policy.moments}
        self.absences = tuple(moment for moment in policy.moments if moment.is_absence)
        self.runs = tuple(
            (moment.speaker, leaf)
            for moment in policy.moments
            for leaf in leaves(moment.condition)
            if isinstance(leaf, OutputIs) and leaf.for_turns > 1
        )
        self.rivals = _rivals(policy)
        self.lexicon = PatternIndex(pattern for moment in policy.moments for pattern in _patterns(moment))
        self._of_speaker: dict[str, tuple[Moment, ...]] = {}
        for moment in policy.moments:
            self._of_speaker[moment.speaker] = (*self._of_speaker.get(moment.speaker, ()), moment)
        self._readers: dict[tuple[str, frozenset[str]], tuple[Moment, ...]] = {}

    def of_speaker(self, speaker: Speaker) -> tuple[Moment, ...]:
        """Moments that this speaker's words can be, as declared."""
        return self._of_speaker.get(speaker, ())

    def readers(self, speaker: Speaker, outputs: frozenset[str]) -> tuple[Moment, ...]:
        """Moments that a claim of one of these outputs can change, as declared. Few sets ever come: a graph's steps."""
        key = (speaker, outputs)
        if key not in self._readers:
            found = (moment for moment in self.of_speaker(speaker) if not outputs.isdisjoint(moment.reads))
            self._readers[key] = tuple(found)
        return self._readers[key]


def _patterns(moment: Moment) -> Iterator[tuple[str, WordPattern]]:
    for leaf in (*leaves(moment.condition), *moment.negatives):
        if isinstance(leaf, Lexical):
            for pattern in leaf.patterns:
                yield leaf.path, pattern


def _rivals(policy: Policy) -> dict[str, frozenset[str]]:
    """Semantic paths of each speaker compete with each other, but not with those of their own moment."""
    moments_of: dict[str, set[str]] = {}
    speaker_of: dict[str, Speaker] = {}
    for moment in policy.moments:
        for leaf in leaves(moment.condition):
            if isinstance(leaf, Semantic):
                moments_of.setdefault(leaf.path, set()).add(moment.id)
                speaker_of[leaf.path] = moment.speaker
    return {
        path: frozenset(
            other
            for other, theirs in moments_of.items()
            if speaker_of[other] == speaker_of[path] and not theirs & moments_of[path]
        )
        for path in moments_of
    }
