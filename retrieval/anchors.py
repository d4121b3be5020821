"""What is said in calls, by example (`phrases.yaml`): each base keeps the vectors, and a search learns from them.

phrases ─▶ vectors, at ingest ─▶ two rules: does a turn carry a topic; is a question one for a service at all
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from inference.request import EmbeddingArray
from retrieval.discriminant import Discriminant

_PHRASES = Path(__file__).with_name("phrases.yaml")
_KINDS = ("small_talk", "boundaries", "particulars", "topical", "direct", "elliptical", "off_topic")
_table = {kind: tuple(phrases) for kind, phrases in yaml.safe_load(_PHRASES.read_text("utf-8")).items()}

PHRASES: tuple[str, ...] = tuple(phrase for kind in _KINDS for phrase in _table[kind])
"""Order of the stored vectors."""
_ENDS = np.cumsum([len(_table[kind]) for kind in _KINDS]).tolist()
_SPANS = {kind: slice(end - len(_table[kind]), end) for kind, end in zip(_KINDS, _ENDS, strict=True)}
_ASKED = slice(_SPANS["topical"].start, _SPANS["elliptical"].stop)
_BESIDE = slice(_SPANS["small_talk"].start, _SPANS["particulars"].stop)
OFF_TOPIC = _table["off_topic"]

NEAREST_WEIGHT = 2.0
"""What the nearest examples count beside the rule, which over so few of them takes some names for topics."""
TOPICAL_BIAS = 0.4
"""A turn left out costs more than one too many. Both measured in trades left out in turn (docs/knowledge.md)."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """The phrases as one encoder sees them.

    Attributes:
        vectors: `[phrases, dims] float32`, in the order of `PHRASES`.
        topical: Above 0 for a turn that says what a call is about, below for small talk, names and numbers.
        service: Above 0 for what callers ask a service, below for what they ask their friends.
    """

    vectors: EmbeddingArray
    topical: Discriminant
    service: Discriminant

    @classmethod
    def of(cls, vectors: EmbeddingArray) -> Anchors:
        """Learn the rules; what was learned from the same vectors is shared, as all bases of an encoder have them.

        Args:
            vectors: `[phrases, dims] float32`, in the order of `PHRASES`.

        Raises:
            ValueError: If these are not the vectors of `PHRASES`.
        """
        if len(vectors) != len(PHRASES):
            raise ValueError(f"expected the vectors of {len(PHRASES)} phrases, got {len(vectors)}")
        return _learned(np.asarray(vectors, np.float32).tobytes())

    @property
    def off_topic(self) -> EmbeddingArray:
        """`[phrases, dims] float32`, of `OFF_TOPIC`."""
        return self.vectors[_SPANS["off_topic"]]

    def topicality(self, vectors: EmbeddingArray) -> NDArray[np.float32]:
        """Tell how much each turn says of what a call is about: by rule, and by the nearest example of each side.

        Args:
            vectors: `[rows, dims] float32`.

        Returns:
            `[rows] float32`, above 0 for turns that carry a topic.
        """
        nearest = _nearest(vectors, self.vectors[_SPANS["topical"]]) - _nearest(vectors, self.vectors[_BESIDE])
        return self.topical(vectors) + np.float32(NEAREST_WEIGHT) * nearest + np.float32(TOPICAL_BIAS)

    def relevance(self, vectors: EmbeddingArray, nearest_passage: NDArray[np.float32]) -> NDArray[np.float32]:
        """Tell how much like a question to a service each text is: by rule, and by the nearest example of each side.

        Args:
            vectors: `[rows, dims] float32`.
            nearest_passage: `[rows] float32`, cosine to the nearest passage: the base itself is an example.

        Returns:
            `[rows] float32`, above 0 for questions to a service.
        """
        asked = np.maximum(nearest_passage, self.nearest_asked(vectors))
        return self.service(vectors) + asked - _nearest(vectors, self.off_topic)

    def nearest_asked(self, vectors: EmbeddingArray) -> NDArray[np.float32]:
        """Return `[rows] float32`, cosine to the nearest of what callers ask or say of their topic."""
        return _nearest(vectors, self.vectors[_ASKED])

    def nearest_small_talk(self, vectors: EmbeddingArray) -> NDArray[np.float32]:
        """Return `[rows] float32`, cosine to the nearest small talk."""
        return _nearest(vectors, self.vectors[_SPANS["small_talk"]])

    def nearest_boundary(self, vectors: EmbeddingArray) -> NDArray[np.float32]:
        """Return `[rows] float32`, cosine to the nearest phrase that ends a topic."""
        return _nearest(vectors, self.vectors[_SPANS["boundaries"]])


@lru_cache(maxsize=4)
def _learned(data: bytes) -> Anchors:
    """See `Anchors.of`; of the vectors' bytes, which are kept once for all that share them."""
    vectors = np.frombuffer(data, np.float32).reshape(len(PHRASES), -1)
    return Anchors(
        vectors,
        Discriminant.fit(vectors[_SPANS["topical"]], vectors[_BESIDE]),
        Discriminant.fit(vectors[_ASKED], vectors[_SPANS["off_topic"]]),
    )


def _nearest(vectors: EmbeddingArray, examples: EmbeddingArray) -> NDArray[np.float32]:
    nearest: NDArray[np.float32] = (vectors @ examples.T).max(1)
    return nearest
