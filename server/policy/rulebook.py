"""What all calls of one policy version share: its moments, indexed for judging. Immutable, built once a version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from server.policy.candidates import Candidates
from server.policy.rules import Lexical, Moment, OutputIs, Policy, Semantic, leaves
from server.policy.words import PatternIndex, WordPattern
from server.wire.ids import Speaker

SPEAKERS: tuple[Speaker, ...] = get_args(Speaker)


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
        runs: Conditions that have to hold for several turns, by the speaker of these and the output read.
        rivals: Semantic paths that compete for the words of each semantic path.
        lexicons: All patterns of each speaker's moments, by the path of their condition.
        candidates: Of each speaker, the moments that can hold.
        reads: Of each speaker, the graph outputs that can change a moment.
    """

    def __init__(self, policy: Policy, thresholds: Mapping[str, float] | None = None) -> None:
        self.policy = policy
        self.thresholds = dict(thresholds or {})
        self.moments = {moment.id: moment for moment in policy.moments}
        self.absences = tuple(moment for moment in policy.moments if moment.is_absence)
        self.runs: dict[tuple[Speaker, str], list[OutputIs]] = {}
        for moment in policy.moments:
            for leaf in leaves(moment.condition):
                if isinstance(leaf, OutputIs) and leaf.for_turns > 1:
                    self.runs.setdefault((moment.speaker, leaf.output), []).append(leaf)
        self.rivals = _rivals(policy)
        own = {speaker: [moment for moment in policy.moments if moment.speaker == speaker] for speaker in SPEAKERS}
        self.lexicons = {
            speaker: PatternIndex(pattern for moment in moments for pattern in _patterns(moment))
            for speaker, moments in own.items()
        }
        self.candidates = {speaker: Candidates(moments) for speaker, moments in own.items()}
        self.reads = {
            speaker: frozenset[str]().union(*(moment.reads for moment in moments)) for speaker, moments in own.items()
        }


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
