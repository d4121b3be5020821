"""Cuts examples into fit, calibrate and validate, by group and the same on every machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from inference.training.tasks import Examples

CALIBRATE_SHARE = 0.1
VALIDATE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Split:
    """Three disjoint parts of one task.

    Attributes:
        fit: Weights learn from it.
        calibrate: Temperatures, biases and thresholds learn from it.
        validate: Nothing learns from it; what `evaluate` reports.
    """

    fit: Examples
    calibrate: Examples
    validate: Examples


def position(group: str, seed: int) -> float:
    """Place a group on 0..1 by its digest: stable when data is added or reordered."""
    digest = hashlib.blake2b(group.encode(), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") / 2**64


def split(examples: Examples, seed: int, calibrate: float = CALIBRATE_SHARE, validate: float = VALIDATE_SHARE) -> Split:
    """Cut by group, so that a dialogue never lies on two sides.

    Args:
        examples: All rows of a task, or of one source of it.
        seed: Another seed gives other parts.
        calibrate: Share of groups to calibrate on.
        validate: Share of groups to validate on.
    """
    places = np.array([position(group, seed) for group in examples.groups])
    validated = places < validate
    calibrated = ~validated & (places < validate + calibrate)
    return Split(
        fit=examples.take(np.flatnonzero(~validated & ~calibrated)),
        calibrate=examples.take(np.flatnonzero(calibrated)),
        validate=examples.take(np.flatnonzero(validated)),
    )
