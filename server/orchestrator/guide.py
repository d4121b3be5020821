"""What one policy version asks of the engine, compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inference.plan import Plan
from inference.request import PrototypeSet


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Guide:
    """A compiled policy: shared by all calls that are pinned to it.

    Attributes:
        name: Policy name and version.
        plan: Steps to run.
        prototypes: The tenant's labels by example, for each model version that may answer; None if it has none.
        pins: Model name to version, empty: what serves now.
        labels: Output name to the labels that make sense for the tenant; outputs that are absent keep all.
        carry_input: Input of the graph that takes what the turn before handed on; empty: it has none.
    """

    name: str
    plan: Plan
    prototypes: Mapping[int, PrototypeSet] | None = None
    pins: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, frozenset[str]] = field(default_factory=dict)
    carry_input: str = ""

    def narrow(self, output: str, value: Any) -> Any:
        """Mark a claim as out of scope, or drop it from a list of claims, where its label is not for this tenant.

        Args:
            output: Name of the graph output.
            value: As the graph gave it: `{label, score, …}`, `[{label, score}]` or something without labels.
        """
        allowed = self.labels.get(output)
        if allowed is None:
            return value
        if isinstance(value, list):
            return [claim for claim in value if claim.get("label") in allowed]
        if isinstance(value, dict) and "label" in value and value["label"] not in allowed:
            return {**value, "in_scope": False}
        return value
