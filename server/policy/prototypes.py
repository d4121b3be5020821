"""Example phrases become labels of the graph's `moments` output, with thresholds that the phrases themselves teach.

Those of the tenant's own actions are among them; `server.policy.own_actions` takes their claims to `actions`.

    prototype_spec(policy) → phrases to embed ─┐
    read_negatives(file) → phrases to embed ───┴▶ build_prototypes(…) → PrototypeSet, thresholds, collisions

Pure numpy but for `read_negatives`. The encoder decides what is similar, so thresholds belong to an encoder version:
calibrate anew when it changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.request import EmbeddingArray, PrototypeSet
from server.policy.conditions import NEGATIVES_LABEL
from server.policy.rules import ACTIONS_OUTPUT, KEEP_MARGIN, SEMANTIC_OUTPUT, Policy, Semantic, leaves
from server.wire.errors import BadRequest, ConfigError
from server.wire.ids import Speaker

ThresholdArray = NDArray[np.float32]
LabelArray = NDArray[np.int32]

LOWEST_THRESHOLD = 0.55
HIGHEST_THRESHOLD = 0.65
"""Bounds of a calibrated threshold. Below, unrelated sentences of the same trade meet; above, a condition would ask for
its own examples nearly word by word. Measured with all-MiniLM-L6-v2, see docs/policies.md."""

FOREIGN_QUANTILE = 0.98
"""Share of the general negatives that a threshold alone keeps out; the rest are kept out by `NEGATIVES_LABEL`."""

COLLISION = 0.8
"""Two phrases this similar under labels of different moments of one speaker cannot be told apart; nor under those of
two own actions. A moment and an action may mean the same."""


@dataclass(frozen=True, slots=True)
class PrototypeSpec:
    """What is to be embedded for one policy.

    Attributes:
        name: Policy name and version.
        labels: Rule paths of the semantic conditions, of negatives and of own actions.
        thresholds: Declared threshold of each label, None: to be calibrated.
        phrases: Example phrases.
        label_of: `[phrases] int32`, label of each phrase.
        moment_of: Path of the moment or own action of each label; labels of one moment are never rivals.
        output_of: Output in which each label is claimed; labels of two outputs are never rivals.
        speaker_of: Whose words each label reads.
        veto_of: For a label of negatives the labels that it vetoes, else empty.
    """

    name: str
    labels: tuple[str, ...]
    thresholds: tuple[float | None, ...]
    phrases: tuple[str, ...]
    label_of: LabelArray
    moment_of: tuple[str, ...]
    output_of: tuple[str, ...]
    speaker_of: tuple[Speaker, ...]
    veto_of: tuple[tuple[int, ...], ...]

    def hearing_of(self, label: int) -> tuple[str, Speaker]:
        """Output and speaker of a label; only labels that share both can be taken for each other."""
        return self.output_of[label], self.speaker_of[label]


@dataclass(frozen=True, slots=True)
class Collision:
    """Two phrases that the encoder cannot tell apart though they mean different moments, or different own actions."""

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


def read_negatives(path: Path) -> tuple[str, ...]:
    """Read the general negatives: one sentence a line, `#` begins a comment.

    Raises:
        ConfigError: The file cannot be read or holds none.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot be read: {type(error).__name__}", field=path.name) from error
    negatives = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not negatives:
        raise ConfigError("holds no sentence", field=path.name)
    return negatives


def prototype_spec(policy: Policy) -> PrototypeSpec:
    """Collect the example phrases of a policy, in the order declared. Empty where nothing is semantic."""
    labels: list[str] = []
    thresholds: list[float | None] = []
    phrases: list[str] = []
    label_of: list[int] = []
    owners: list[tuple[str, str, Speaker]] = []
    veto_of: list[tuple[int, ...]] = []
    default = policy.outputs.get("moments")
    for moment in policy.moments:
        own = [leaf for leaf in leaves(moment.condition) if isinstance(leaf, Semantic) and leaf.path not in labels]
        vetoed = tuple(range(len(labels), len(labels) + len(own)))
        negatives = [negative for negative in moment.negatives if isinstance(negative, Semantic)]
        for leaf, vetoes in [*((leaf, ()) for leaf in own), *((negative, vetoed) for negative in negatives)]:
            label_of.extend([len(labels)] * len(leaf.phrases))
            phrases.extend(leaf.phrases)
            labels.append(leaf.path)
            thresholds.append(leaf.threshold if leaf.threshold is not None else default)
            owners.append((moment.path, SEMANTIC_OUTPUT, moment.speaker))
            veto_of.append(vetoes)
    for action in policy.own_actions:
        label_of.extend([len(labels)] * len(action.phrases))
        phrases.extend(action.phrases)
        labels.append(action.path)
        thresholds.append(action.threshold)
        owners.append((action.path, ACTIONS_OUTPUT, action.speaker))
        veto_of.append(())
    return PrototypeSpec(
        name=policy.name,
        labels=tuple(labels),
        thresholds=tuple(thresholds),
        phrases=tuple(phrases),
        label_of=np.array(label_of, dtype=np.int32),
        moment_of=tuple(path for path, _, _ in owners),
        output_of=tuple(output for _, output, _ in owners),
        speaker_of=tuple(speaker for _, _, speaker in owners),
        veto_of=tuple(veto_of),
    )


def calibrate(vectors: EmbeddingArray, label_of: LabelArray, negatives: EmbeddingArray) -> ThresholdArray:
    """Choose the threshold of each label: above nearly all sentences that mean nothing, within bounds.

    A sentence is scored by its nearest phrase. Which of two labels a sentence means is not a matter of thresholds: the
    nearer one wins (`server.policy.conditions.Judge`).

    Args:
        vectors: `[phrases, dims] float32`, L2-normalised.
        label_of: `[phrases] int32`, label of each phrase; labels count from 0 without holes.
        negatives: `[negatives, dims] float32`, L2-normalised: sentences that mean none of the labels. May be empty.

    Returns:
        `[labels] float32`.
    """
    num_labels = int(label_of.max()) + 1 if label_of.size else 0
    thresholds = np.full(num_labels, LOWEST_THRESHOLD, dtype=np.float32)
    for label in range(num_labels if len(negatives) else 0):
        nearest = (vectors[label_of == label] @ negatives.T).max(axis=0)
        thresholds[label] = np.clip(np.quantile(nearest, FOREIGN_QUANTILE), LOWEST_THRESHOLD, HIGHEST_THRESHOLD)
    return thresholds


def build_prototypes(
    spec: PrototypeSpec, vectors: EmbeddingArray, negatives: Sequence[str], negative_vectors: EmbeddingArray
) -> Prototypes:
    """Join a spec with the vectors of its phrases and of the general negatives.

    Of the negatives only those enter the set that are near enough to a phrase to ever matter.

    Args:
        spec: From `prototype_spec`.
        vectors: `[phrases, dims] float32`, L2-normalised, in the order of `spec.phrases`.
        negatives: From `read_negatives`.
        negative_vectors: `[negatives, dims] float32`, L2-normalised, in their order.

    Raises:
        BadRequest: Not one vector a phrase.
    """
    if len(vectors) != len(spec.phrases) or len(negative_vectors) != len(negatives):
        counts = f"{len(vectors)} and {len(negative_vectors)} vectors"
        raise BadRequest(f"{counts} for {len(spec.phrases)} and {len(negatives)} phrases", field="vectors")
    fire = calibrate(vectors, spec.label_of, negative_vectors)
    for index, declared in enumerate(spec.thresholds):
        if declared is not None:
            fire[index] = declared
    for index, vetoed in enumerate(spec.veto_of):
        if vetoed:  # a rival must be listed wherever what it vetoes is believed
            fire[index] = min(fire[rival] for rival in vetoed)
    listed = np.maximum(fire - KEEP_MARGIN, 0.0).astype(np.float32)
    labels, phrases, label_of = spec.labels, spec.phrases, spec.label_of
    if len(labels) and len(negatives):
        is_near = (negative_vectors @ vectors.T).max(axis=1) >= listed.min()
        labels = (*labels, NEGATIVES_LABEL)
        listed = np.append(listed, listed.min())
        phrases = (*phrases, *(phrase for phrase, near in zip(negatives, is_near, strict=True) if near))
        vectors = np.concatenate([vectors, negative_vectors[is_near]])
        label_of = np.concatenate([label_of, np.full(int(is_near.sum()), len(labels) - 1, np.int32)])
        if not is_near.any():
            labels, listed = labels[:-1], listed[:-1]
    return Prototypes(
        set=PrototypeSet(spec.name, labels, listed, phrases, vectors, label_of),
        thresholds={label: float(fire[index]) for index, label in enumerate(spec.labels)},
        collisions=find_collisions(spec, vectors[: len(spec.phrases)]),
    )


def find_collisions(spec: PrototypeSpec, vectors: EmbeddingArray) -> tuple[Collision, ...]:
    """Name the phrases of different moments of one speaker that are nearly the same to the encoder, worst first."""
    similarity = vectors @ vectors.T
    found = []
    for first, second in zip(*np.nonzero(np.triu(similarity, k=1) >= COLLISION), strict=True):
        one, two = int(spec.label_of[first]), int(spec.label_of[second])
        if spec.moment_of[one] != spec.moment_of[two] and spec.hearing_of(one) == spec.hearing_of(two):
            score = round(float(similarity[first, second]), 3)
            found.append(
                Collision(spec.labels[one], spec.phrases[first], spec.labels[two], spec.phrases[second], score)
            )
    return tuple(sorted(found, key=lambda collision: (-collision.score, collision.label, collision.phrase)))
