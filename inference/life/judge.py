"""Whether a version may take traffic, compared with the one that serves, and whether it may keep it. Pure."""

from __future__ import annotations

from inference.cost import CostModel
from inference.errors import ModelError
from inference.health import View
from inference.life.settings import LifeSettings
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


def check_cost(candidate: ModelVersion, cost: CostModel, serving: CostModel, settings: LifeSettings) -> None:
    """Check what a version was seen to cost when it was warmed.

    Raises:
        ModelError: With both times, if it takes too many times as long.
    """
    for tokens in _PROBE_TOKENS:
        takes_s, known_s = cost.predict_s(tokens), serving.predict_s(tokens)
        if known_s > 0.0 and takes_s > settings.max_latency_ratio * known_s:
            raise ModelError(
                f"takes {takes_s * 1000:.1f} ms for {tokens} tokens, the version that serves {known_s * 1000:.1f}; "
                f"allowed is {settings.max_latency_ratio:g} times that",
                path=f"{candidate.name}/{candidate.version}",
            )


def fault(view: View, serving: CostModel, settings: LifeSettings) -> str:
    """Say why a version has to go, empty while it may stay.

    Args:
        view: What it did of late.
        serving: Cost of the version that it is measured by.
        settings: The bounds.
    """
    if view.failed_in_row >= settings.max_failed_in_row:
        return f"{view.failed_in_row} rows failed one after another"
    if view.rows + view.failed < settings.min_rows:
        return ""
    if view.failed_ratio > settings.max_failed_ratio:
        return f"{view.failed_ratio:.1%} of the rows failed, allowed are {settings.max_failed_ratio:.1%}"
    slowness = view.slowness(serving)
    if slowness > settings.max_latency_ratio:
        return f"batches take {slowness:.1f} times as long as before, allowed are {settings.max_latency_ratio:g}"
    return ""
