"""Moments by example: one matrix product compares a batch with the phrases of every tenant.

    PrototypeSet per tenant ──stacked──▶ vectors [phrases, dims]
    embeddings [rows, dims] @ vectors.T ──best phrase of each label──▶ scores [rows, labels] ──own labels, threshold──▶

Fifty tenants cost one product, not fifty; each row then looks at its own tenant's few labels, as plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from inference.head_views import Value
from inference.request import EmbeddingArray, PrototypeSet

_MAX_STACKED_PHRASES = 2048
"""The stack starts afresh beyond this: the product of a full stack costs a twentieth of the encoder's pass."""


def make_prototypes(
    name: str, phrases: Mapping[str, Sequence[str]], thresholds: Mapping[str, float], vectors: EmbeddingArray
) -> PrototypeSet:
    """Put a tenant's embedded examples into the engine's form.

    Args:
        name: Tenant and policy version; unique while requests with it are under way.
        phrases: Label to its example phrases.
        thresholds: Label to the lowest score at which it is claimed.
        vectors: `[phrases, dims] float32`, L2-normalised, from `Engine.embed` over all phrases in the order of
            `phrases`.

    Raises:
        ValueError: If a label has no phrase or no threshold, or the vectors are not one a phrase.
    """
    labels = tuple(phrases)
    if empty := [label for label in labels if not phrases[label] or label not in thresholds]:
        raise ValueError(f"label {empty[0]!r} of {name} needs a phrase and a threshold")
    flat = tuple(phrase for label in labels for phrase in phrases[label])
    if vectors.ndim != 2 or len(vectors) != len(flat):
        raise ValueError(f"{name} has {len(flat)} phrases, but vectors of shape {vectors.shape}")
    return PrototypeSet(
        name=name,
        labels=labels,
        thresholds=np.array([thresholds[label] for label in labels], np.float32),
        phrases=flat,
        vectors=np.ascontiguousarray(vectors, np.float32),
        label_of=np.repeat(np.arange(len(labels), dtype=np.int32), [len(phrases[label]) for label in labels]),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """One tenant's place in a stack.

    Attributes:
        prototypes: The set itself; held, so that its `id` stays its own.
        labels: Its labels that have phrases.
        thresholds: Of these, each exactly a float32.
        phrases: Of each label, in the order of the stack's columns.
        label_columns: Where its labels are in the stack.
        phrase_columns: Where the phrases of each label are.
    """

    prototypes: PrototypeSet
    labels: tuple[str, ...]
    thresholds: Sequence[float]
    phrases: tuple[tuple[str, ...], ...]
    label_columns: slice
    phrase_columns: tuple[slice, ...]


class PrototypeReading:
    """One batch compared with one stack. Immutable, callable from any thread."""

    __slots__ = ("_best", "_parts", "_similarities")

    def __init__(
        self, parts: Mapping[int, _Part], similarities: NDArray[np.float32], best: NDArray[np.float32]
    ) -> None:
        """Keep a comparison.

        Args:
            parts: Tenants by `id` of their set.
            similarities: `[rows, phrases]`.
            best: `[rows, labels]`, of each label's phrases.
        """
        self._parts = parts
        self._similarities = similarities
        self._best = best

    def holds(self, prototypes: PrototypeSet) -> bool:
        """Whether the set was part of the stack that the batch was compared with."""
        return id(prototypes) in self._parts

    def value(self, row: int, prototypes: PrototypeSet) -> Value:
        """Build `[{label, score, phrase}]` of one row, best first, for its own tenant's labels.

        Raises:
            ValueError: If the row's embedding is not made of numbers.
        """
        part = self._parts[id(prototypes)]
        scores: list[float] = self._best[row, part.label_columns].tolist()
        if scores and not math.isfinite(scores[0]):  # one dimension that is not makes every product so
            raise ValueError("the model's embedding is not finite")
        claims = [
            (-score, label)
            for label, (score, threshold) in enumerate(zip(scores, part.thresholds, strict=True))
            if score >= threshold
        ]
        if not claims:
            return [], None
        claims.sort()
        similarities = self._similarities[row]
        labels, phrases, columns = part.labels, part.phrases, part.phrase_columns
        found = []
        for score, label in claims:
            near = similarities[columns[label]].tolist()
            found.append({"label": labels[label], "score": -score, "phrase": phrases[label][near.index(max(near))]})
        return found, -claims[0][0]


class PrototypeStack:
    """The phrases of some tenants below each other, sorted by label. Immutable."""

    __slots__ = ("_parts", "_starts", "_vectors")

    def __init__(self, sets: Iterable[PrototypeSet] = ()) -> None:
        self._parts: dict[int, _Part] = {}
        vectors: list[EmbeddingArray] = []
        starts: list[int] = []
        num_phrases = 0
        for prototypes in sets:
            order = np.argsort(prototypes.label_of, kind="stable")
            present, first = np.unique(prototypes.label_of[order], return_index=True)
            spans = [slice(start, end) for start, end in pairwise([*first.tolist(), len(order)])]
            self._parts[id(prototypes)] = _Part(
                prototypes=prototypes,
                labels=tuple(prototypes.labels[label] for label in present.tolist()),
                thresholds=prototypes.thresholds[present].tolist(),
                phrases=tuple(tuple(prototypes.phrases[i] for i in order[span].tolist()) for span in spans),
                label_columns=slice(len(starts), len(starts) + len(present)),
                phrase_columns=tuple(slice(num_phrases + span.start, num_phrases + span.stop) for span in spans),
            )
            vectors.append(prototypes.vectors[order])
            starts.extend(num_phrases + start for start in first.tolist())
            num_phrases += len(order)
        self._starts = np.array(starts, np.intp)
        self._vectors = np.ascontiguousarray(np.concatenate(vectors).T) if num_phrases else None

    @property
    def sets(self) -> list[PrototypeSet]:
        """Sets in the stack, oldest first."""
        return [part.prototypes for part in self._parts.values()]

    def holds(self, sets: Iterable[PrototypeSet]) -> bool:
        """Whether all of these are in the stack."""
        return all(id(prototypes) in self._parts for prototypes in sets)

    def compare(self, embeddings: EmbeddingArray) -> PrototypeReading:
        """Compare every row with every phrase.

        Args:
            embeddings: `[rows, dims] float32`, L2-normalised.
        """
        if self._vectors is None:
            nothing = np.empty((len(embeddings), 0), np.float32)
            return PrototypeReading(self._parts, nothing, nothing)
        similarities = embeddings @ self._vectors
        return PrototypeReading(self._parts, similarities, np.maximum.reduceat(similarities, self._starts, axis=1))


class PrototypeBook:
    """The stack in use; grows by what requests bring. Callable from any thread: a race costs one extra stacking."""

    def __init__(self) -> None:
        self._stack = PrototypeStack()

    def compare(self, embeddings: EmbeddingArray, sets: Sequence[PrototypeSet]) -> PrototypeReading:
        """Compare a batch with all stacked tenants, these among them."""
        stack = self._stack
        if not stack.holds(sets):
            wanted = {id(prototypes): prototypes for prototypes in sets}
            both = {id(prototypes): prototypes for prototypes in stack.sets} | wanted
            fits = sum(len(prototypes.phrases) for prototypes in both.values()) <= _MAX_STACKED_PHRASES
            self._stack = stack = PrototypeStack((both if fits else wanted).values())
        return stack.compare(embeddings)
