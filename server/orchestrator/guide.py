"""What one policy version asks of the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.plan import Plan
from inference.request import EmbeddingArray, PrototypeSet

Calibrate = Callable[[EmbeddingArray, NDArray[np.int32], NDArray[np.float32]], NDArray[np.float32]]
"""Vectors of the phrases, their label indices and the declared thresholds (NaN: not declared) → thresholds."""


@dataclass(frozen=True, slots=True)
class GuideSpec:
    """A policy as the engine sees it: outputs wanted, labels by example.

    Attributes:
        name: Tenant and version, `car_service@3`.
        graph: Graph to run.
        outputs: Outputs wanted of it.
        labels: Labels by example.
        phrases: Example phrases, all labels in one row.
        label_of: Index into `labels` of each phrase.
        thresholds: Declared threshold of each label, NaN where it is to be calibrated.
    """

    name: str
    graph: str
    outputs: tuple[str, ...]
    labels: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    label_of: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Guide:
    """A compiled policy: shared by all calls that are pinned to it.

    Attributes:
        spec: What it was made of.
        plan: Steps to run.
        prototypes: The tenant's labels by example, None if it has none.
    """

    spec: GuideSpec
    plan: Plan
    prototypes: PrototypeSet | None
