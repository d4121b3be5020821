"""Example phrases become labels of the graph's `moments` output, with thresholds that the phrases themselves teach.

    prototype_spec(policy) → phrases to embed → build_prototypes(spec, vectors, negatives) → PrototypeSet, thresholds

Pure numpy. The encoder decides what is similar, so thresholds belong to an encoder version: calibrate anew when it
changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.request import EmbeddingArray, PrototypeSet
from server.policy.conditions import KEEP_MARGIN
from server.policy.rules import Moment, Policy, Semantic, leaves
from server.wire.errors import BadRequest
from server.wire.ids import Speaker

ThresholdArray = NDArray[np.float32]
LabelArray = NDArray[np.int32]

LOWEST_THRESHOLD = 0.45
HIGHEST_THRESHOLD = 0.75
"""Bounds of a calibrated threshold. Below, unrelated sentences of the same trade meet; above, a condition would ask for
its own examples nearly word by word. Measured with all-MiniLM-L6-v2, see docs/policies.md."""

NEGATIVE_QUANTILE = 0.98
"""Share of the negatives that a threshold keeps out, where the phrases themselves allow it."""

COLLISION = 0.8
"""Two phrases this similar under labels of different moments of one speaker cannot be told apart."""


@dataclass(frozen=True, slots=True)
class PrototypeSpec:
    """What is to be embedded for one policy.

    Attributes:
        name: Policy name and version.
        labels: Rule paths of the semantic conditions and negatives.
        thresholds: Declared threshold of each label, None: to be calibrated.
        phrases: Example phrases.
        label_of: `[phrases] int32`, label of each phrase.
        moment_of: Moment path of each label; labels of one moment are never each other's negatives.
        speaker_of: Whose words each label reads.
        veto_of: For a label of negatives the labels that it vetoes, else empty.
    """

    name: str
    labels: tuple[str, ...]
    thresholds: tuple[float | None, ...]
    phrases: tuple[str, ...]
    label_of: LabelArray
    moment_of: tuple[str, ...]
    speaker_of: tuple[Speaker, ...]
    veto_of: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Collision:
    """Two phrases that the encoder cannot tell apart though they mean different moments."""

    label: str
    phrase: str
    other_label: str
    other_phrase: str
    score: float


@dataclass(frozen=True, slots=True)
class Prototypes:
    """A policy's semantic conditions, ready to serve.

    Attributes:
        set: For `Request.prototypes`. Lists a label from `KEEP_MARGIN` below its threshold, so that a final can keep
            what an interim claimed.
        thresholds: For `CallPolicy`: rule path to the score from which the claim is believed.
        collisions: Phrases to reword, worst first.
    """

    set: PrototypeSet
    thresholds: Mapping[str, float]
    collisions: tuple[Collision, ...]


def prototype_spec(policy: Policy) -> PrototypeSpec:
    """Collect the example phrases of a policy, in the order declared. Empty where nothing is semantic."""
    labels: list[str] = []
    thresholds: list[float | None] = []
    phrases: list[str] = []
    label_of: list[int] = []
    owners: list[Moment] = []
    veto_of: list[tuple[int, ...]] = []
    default = policy.outputs.get("moments")
    for moment in policy.moments:
        own = [leaf for leaf in leaves(moment.condition) if isinstance(leaf, Semantic)]
        vetoed = tuple(range(len(labels), len(labels) + len(own)))
        negatives = [negative for negative in moment.negatives if isinstance(negative, Semantic)]
        for leaf, vetoes in [*((leaf, ()) for leaf in own), *((negative, vetoed) for negative in negatives)]:
            label_of.extend([len(labels)] * len(leaf.phrases))
            phrases.extend(leaf.phrases)
            labels.append(leaf.path)
            thresholds.append(leaf.threshold if leaf.threshold is not None else default)
            owners.append(moment)
            veto_of.append(vetoes)
    return PrototypeSpec(
        name=policy.name,
        labels=tuple(labels),
        thresholds=tuple(thresholds),
        phrases=tuple(phrases),
        label_of=np.array(label_of, dtype=np.int32),
        moment_of=tuple(moment.path for moment in owners),
        speaker_of=tuple(moment.speaker for moment in owners),
        veto_of=tuple(veto_of),
    )


def calibrate(
    vectors: EmbeddingArray, label_of: LabelArray, negatives: EmbeddingArray, groups: Sequence[str] | None = None
) -> ThresholdArray:
    """Choose the threshold of each label from its own phrases against everything that is not meant.

    A phrase is scored by its nearest sister, itself left out; a negative by its nearest phrase. The threshold is put
    where the negatives end (`NEGATIVE_QUANTILE`), but not above the middle of the phrases' own scores, and within
    bounds.

    Args:
        vectors: `[phrases, dims] float32`, L2-normalised.
        label_of: `[phrases] int32`, label of each phrase; labels count from 0 without holes.
        negatives: `[negatives, dims] float32`, L2-normalised: sentences that mean none of the labels. May be empty.
        groups: Group of each label; phrases of other groups are negatives too. None: every label is its own group.

    Returns:
        `[labels] float32`.
    """
    num_labels = int(label_of.max()) + 1 if label_of.size else 0
    names = list(groups) if groups is not None else [str(label) for label in range(num_labels)]
    group_of = np.array([names[label] for label in label_of])
    similarity = vectors @ vectors.T
    foreign = vectors @ negatives.T if negatives.size else np.empty((len(vectors), 0), np.float32)
    thresholds = np.full(num_labels, LOWEST_THRESHOLD, dtype=np.float32)
    for label in range(num_labels):
        own = label_of == label
        others = similarity[np.ix_(own, group_of != names[label])].max(axis=0, initial=-1.0)
        against = np.concatenate([others, foreign[own].max(axis=0, initial=-1.0)])
        threshold = float(np.quantile(against, NEGATIVE_QUANTILE)) if against.size else LOWEST_THRESHOLD
        if own.sum() > 1:
            sisters = similarity[np.ix_(own, own)] - 2.0 * np.eye(int(own.sum()), dtype=np.float32)
            threshold = min(threshold, float(np.median(sisters.max(axis=1))))
        thresholds[label] = np.clip(threshold, LOWEST_THRESHOLD, HIGHEST_THRESHOLD)
    return thresholds


def build_prototypes(spec: PrototypeSpec, vectors: EmbeddingArray, negatives: EmbeddingArray) -> Prototypes:
    """Join a spec with the vectors of its phrases.

    Args:
        spec: From `prototype_spec`.
        vectors: `[phrases, dims] float32`, L2-normalised, in the order of `spec.phrases`.
        negatives: `[negatives, dims] float32`: vectors of `general_negatives`; other tenants' phrases may join them.

    Raises:
        BadRequest: Not one vector a phrase.
    """
    if len(vectors) != len(spec.phrases):
        raise BadRequest(f"{len(vectors)} vectors for {len(spec.phrases)} phrases", field="vectors")
    fire = np.zeros(len(spec.labels), dtype=np.float32)
    for speaker in ("customer", "agent"):  # the other speaker's words never meet these labels
        mine = [index for index, whose in enumerate(spec.speaker_of) if whose == speaker]
        rows = np.isin(spec.label_of, mine)
        position = {label: index for index, label in enumerate(mine)}
        local = np.array([position[int(label)] for label in spec.label_of[rows]], dtype=np.int32)
        fire[mine] = calibrate(vectors[rows], local, negatives, [spec.moment_of[index] for index in mine])
    for index, declared in enumerate(spec.thresholds):
        if declared is not None:
            fire[index] = declared
    for index, vetoed in enumerate(spec.veto_of):
        if vetoed:  # a rival must be listed wherever what it vetoes is believed
            fire[index] = min(fire[rival] for rival in vetoed)
    listed = np.maximum(fire - KEEP_MARGIN, 0.0).astype(np.float32)
    return Prototypes(
        set=PrototypeSet(spec.name, spec.labels, listed, spec.phrases, vectors, spec.label_of),
        thresholds={label: float(fire[index]) for index, label in enumerate(spec.labels)},
        collisions=find_collisions(spec, vectors),
    )


def find_collisions(spec: PrototypeSpec, vectors: EmbeddingArray) -> tuple[Collision, ...]:
    """Name the phrases of different moments of one speaker that are nearly the same to the encoder, worst first."""
    similarity = vectors @ vectors.T
    found = []
    for first, second in zip(*np.nonzero(np.triu(similarity, k=1) >= COLLISION), strict=True):
        one, two = int(spec.label_of[first]), int(spec.label_of[second])
        if spec.moment_of[one] != spec.moment_of[two] and spec.speaker_of[one] == spec.speaker_of[two]:
            score = round(float(similarity[first, second]), 3)
            found.append(
                Collision(spec.labels[one], spec.phrases[first], spec.labels[two], spec.phrases[second], score)
            )
    return tuple(sorted(found, key=lambda collision: (-collision.score, collision.label, collision.phrase)))
