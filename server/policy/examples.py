"""Are a policy's example phrases any good? Each is left out and looked up by the others, as if a caller had said it.

    phrase ─nearest of the other phrases─▶ its own moment: found | another moment, a negative, nobody: lost, and why

Pure numpy. Says what `server.policy.conditions.Judge` would say of the phrase, had it not been in the policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inference.request import EmbeddingArray
from server.policy.conditions import NEGATIVES_LABEL, RIVAL_MARGIN
from server.policy.prototypes import PrototypeSpec


@dataclass(frozen=True, slots=True)
class LostPhrase:
    """A phrase that the rest of its moment, or of its own action, would not have recognised.

    Attributes:
        label: Rule path of its condition, or path of its own action.
        phrase: As written.
        score: Similarity to the nearest other phrase of its moment.
        threshold: What that had to reach.
        rival: Rule path of what is nearer, `NEGATIVES_LABEL` for the general negatives, empty where nothing is.
        rival_phrase: The nearer phrase.
        rival_score: Its similarity.
    """

    label: str
    phrase: str
    score: float
    threshold: float
    rival: str = ""
    rival_phrase: str = ""
    rival_score: float = 0.0


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """What was found of one policy.

    Attributes:
        found: Path of a moment or own action to phrases recognised by their siblings.
        tried: The same to phrases that have siblings; a lone phrase cannot be tried.
        lost: Phrases to reword, to move, or to give siblings; in the order of the policy.
    """

    found: Mapping[str, int]
    tried: Mapping[str, int]
    lost: tuple[LostPhrase, ...]

    @property
    def share(self) -> float:
        """Share of the phrases tried that were found; 1 where none could be tried."""
        tried = sum(self.tried.values())
        return sum(self.found.values()) / tried if tried else 1.0


def leave_one_out(
    spec: PrototypeSpec,
    vectors: EmbeddingArray,
    thresholds: Mapping[str, float],
    negatives: Sequence[str],
    negative_vectors: EmbeddingArray,
) -> LeaveOneOut:
    """Try every example phrase against all others; phrases of negatives are no examples and only rival.

    Args:
        spec: From `prototype_spec`.
        vectors: `[phrases, dims] float32`, L2-normalised, in the order of `spec.phrases`.
        thresholds: Of each label, as calibrated.
        negatives: The general negatives.
        negative_vectors: `[negatives, dims] float32`, L2-normalised.
    """
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1.0)
    general = vectors @ negative_vectors.T if len(negatives) else np.full((len(vectors), 1), -1.0, np.float32)
    is_veto = np.array([bool(vetoed) for vetoed in spec.veto_of], bool)[spec.label_of]
    moments = np.array(spec.moment_of, object)[spec.label_of]
    hearings = np.array([f"{output} {speaker}" for output, speaker in map(spec.hearing_of, range(len(spec.labels)))])
    hearings = hearings[spec.label_of]
    bars = np.array([thresholds[label] for label in spec.labels], np.float32)[spec.label_of]
    found: dict[str, int] = {}
    tried: dict[str, int] = {}
    lost = []
    for phrase in np.flatnonzero(~is_veto).tolist():
        moment, row = moments[phrase], similarity[phrase]
        own = (moments == moment) & ~is_veto
        if own.sum() < 2:
            continue
        tried[moment] = tried.get(moment, 0) + 1
        nearest = int(np.where(own, row, -1.0).argmax())
        # Phrases of other moments have to be clearly nearer; the moment's own negatives, and the general ones, just so.
        others = np.where((moments != moment) & (hearings == hearings[phrase]) & ~is_veto, row - RIVAL_MARGIN, -1.0)
        vetoes = np.where((moments == moment) & is_veto, row, -1.0)
        rivals = np.maximum(others, vetoes)
        rival, negative = int(rivals.argmax()), int(general[phrase].argmax())
        score = float(row[nearest])
        if score >= bars[nearest] and score >= max(rivals[rival], general[phrase, negative]):
            found[moment] = found.get(moment, 0) + 1
            continue
        if general[phrase, negative] > max(score, rivals[rival]):
            against = (NEGATIVES_LABEL, negatives[negative], float(general[phrase, negative]))
        elif rivals[rival] > score:
            against = (spec.labels[spec.label_of[rival]], spec.phrases[rival], float(row[rival]))
        else:
            against = ("", "", 0.0)
        label = spec.labels[spec.label_of[phrase]]
        lost.append(LostPhrase(label, spec.phrases[phrase], score, float(bars[nearest]), *against))
    return LeaveOneOut(found, tried, tuple(lost))
