"""Whether a version may take traffic, compared with the one that serves, and whether it may keep it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from inference.cost import CostModel
from inference.errors import ModelError
from inference.health import View
from inference.life.settings import LifeSettings
from inference.life.timing import Timing
from inference.repository import ModelVersion

_PROBE_TOKENS = (16, 128)
"""Padded tokens of a lone row and of a fair batch, at which two versions' costs are compared."""


def check_description(candidate: ModelVersion, serving: ModelVersion) -> None:
    """Check that whatever is asked of the serving version can be asked of the candidate.

    Raises:
        ModelError: Naming the tensor, label or head that is not there.
    """
    where = f"{candidate.name}/{candidate.version}"
    for spec in serving.config.outputs:
        other = candidate.config.output(spec.name)
        expected = f"expected {spec} as version {serving.version}"
        if other is None:
            raise ModelError(f"{expected}, given none", path=where, key=f"output {spec.name}")
        labels, known = serving.labels.get(spec.name, ()), candidate.labels.get(spec.name, ())
        if gone := [label for label in labels if label not in known]:
            raise ModelError(f"label {gone[0]!r} of version {serving.version} is gone", path=where, key=spec.name)
        if other.dtype != spec.dtype or (other.dims != spec.dims and not labels):
            raise ModelError(f"{expected}, given {other}", path=where, key=f"output {spec.name}")
    for tensor in serving.heads:
        if tensor not in candidate.heads:
            raise ModelError(f"has no head for {tensor}, which version {serving.version} has", path=where)


def seems_slow(cost: CostModel, serving: CostModel, settings: LifeSettings) -> bool:
    """Whether a version's warm-up took too many times as long as that of the one that serves.

    The two were at different moments: that it was slow is no verdict, but the reason for `check_timings`.
    """
    return any(
        cost.predict_s(tokens) > settings.max_latency_ratio * serving.predict_s(tokens) > 0.0
        for tokens in _PROBE_TOKENS
    )


def check_timings(candidate: ModelVersion, timings: Iterable[Timing], settings: LifeSettings) -> None:
    """Check what a version takes beside the one that serves.

    Raises:
        ModelError: With both times, if it takes too many times as long.
    """
    for timing in timings:
        if timing.takes_s > settings.max_latency_ratio * timing.known_s:
            shape = f"{timing.shape.rows} x {timing.shape.tokens} tokens"
            raise ModelError(
                f"takes {timing.takes_s * 1000:.1f} ms for {shape}, the other version {timing.known_s * 1000:.1f}; "
                f"allowed is {settings.max_latency_ratio:g} times that",
                path=f"{candidate.name}/{candidate.version}",
            )


def fault(view: View, settings: LifeSettings) -> str:
    """Say why a version has to go at once, empty while it may stay.

    Args:
        view: What it did of late.
        settings: The bounds.
    """
    if view.failed_in_row >= settings.max_failed_in_row:
        return f"{view.failed_in_row} rows failed one after another"
    if view.rows + view.failed >= settings.min_rows and view.failed_ratio > settings.max_failed_ratio:
        rows = view.rows + view.failed
        return f"{view.failed} of {rows} rows failed, allowed are {settings.max_failed_ratio:.1%}"
    return ""


def has_slowed(view: View, serving: CostModel, settings: LifeSettings) -> bool:
    """Whether batches of late took too many times as long as the other version's cost says.

    A machine that others use as well slows down every version: no verdict, but the reason for `check_timings`.
    """
    return view.rows + view.failed >= settings.min_rows and view.slowness(serving) > settings.max_latency_ratio
