"""The tenant's own service actions: compared among the moments, claimed in the output `actions`.

    `moments` as the engine gives it ──share_out──▶ claims of moments, and the own actions believed: `[{label, score}]`

One matrix product finds both; whoever reads an output need not know. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from server.policy.conditions import NEGATIVES_LABEL, RIVAL_MARGIN
from server.policy.rules import OwnAction

Claims = list[dict[str, Any]]
"""`[{label, score, …}]`, best first."""

SCORE_SPREAD = 0.2
"""Similarity above the threshold that takes a score from 0.50 to 0.73. Fitted by logistic regression to 418 claims:
example phrases of the shipped policies left out, and general negatives, each claimed as the nearest label. At the
threshold 0.55 of them are right, 0.2 above it 0.77; `min_score` has its default, 0.5, at the threshold."""


class OwnActions:
    """Own actions of one policy by one version of the encoder.

    Judges as `server.policy.conditions.Judge` does: above the threshold, hardly further than the nearest other own
    action of the speaker, and nearer than every general negative.

    Args:
        actions: Of the policy.
        thresholds: Calibrated threshold of each path, from `server.policy.prototypes.build_prototypes`.
    """

    def __init__(self, actions: Iterable[OwnAction], thresholds: Mapping[str, float]) -> None:
        self._actions = {action.path: (action, thresholds[action.path]) for action in actions}

    def share_out(self, claims: Sequence[Mapping[str, Any]], speaker: str) -> tuple[Claims, Claims]:
        """Split what was found by example.

        Args:
            claims: `moments` as the engine gives it, own actions and general negatives among them.
            speaker: Who said it.

        Returns:
            What is left for `moments`, and the own actions, both best first.
        """
        moments: Claims = []
        found: list[tuple[float, OwnAction, float]] = []
        lowest = 0.0
        for claim in claims:
            label, similarity = claim["label"], float(claim["score"])
            known = self._actions.get(label)
            if known is None:
                moments.append(dict(claim))
                if label == NEGATIVES_LABEL:
                    lowest = max(lowest, similarity)
            elif known[0].speaker == speaker:
                found.append((similarity, *known))
                lowest = max(lowest, similarity - RIVAL_MARGIN)
        believed = (
            {"label": action.name, "score": score_of(similarity, threshold)}
            for similarity, action, threshold in found
            if similarity >= max(threshold, lowest)
        )
        return moments, sorted(believed, key=lambda claim: (-claim["score"], claim["label"]))


def score_of(similarity: float, threshold: float) -> float:
    """How likely a claim is right, from how far its similarity is above the threshold of its label."""
    return 1.0 / (1.0 + math.exp((threshold - similarity) / SCORE_SPREAD))
