"""What one policy version asks of the engine, compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from inference.plan import Plan
from inference.request import Output, PrototypeSet
from server.orchestrator.graphs import ACTIONS, MOMENTS

Claims = list[dict[str, Any]]
"""`[{label, score, …}]`, best first."""


class OwnLabels(Protocol):
    """Which of a tenant's labels by example belong to `ACTIONS`."""

    def share_out(self, claims: Sequence[Mapping[str, Any]], speaker: str) -> tuple[Claims, Claims]:
        """Split what was found by example into what stays in `MOMENTS` and what goes to `ACTIONS`."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Guide:
    """A compiled policy: shared by all calls that are pinned to it.

    Attributes:
        name: Policy name and version.
        plan: Steps to run.
        prototypes: The tenant's labels by example, for each model version that may answer; None if it has none.
        own_actions: Those of them that belong to `ACTIONS`, for each of these versions.
        pins: Model name to version, empty: what serves now.
        labels: Output name to the labels that make sense for the tenant; outputs that are absent keep all.
        carry_input: Input of the graph that takes what the turn before handed on; empty: it has none.
    """

    name: str
    plan: Plan
    prototypes: Mapping[int, PrototypeSet] | None = None
    own_actions: Mapping[int, OwnLabels] = field(default_factory=dict)
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

    def share_out(self, outputs: Sequence[Output], speaker: str) -> Sequence[Output]:
        """Take the claims of own actions from `MOMENTS` to `ACTIONS`; changes nothing where the tenant has none.

        Args:
            outputs: Those that became ready together, as both of these are (`Orchestrator.compile` sees to it).
            speaker: Who said it.
        """
        found = next((output for output in outputs if output.name == MOMENTS), None)
        own_actions = self.own_actions.get(found.version) if found is not None else None
        if found is None or own_actions is None:
            return outputs
        moments, actions = own_actions.share_out(found.value, speaker)
        shared = []
        for output in outputs:
            if output is found:
                output = _with_claims(output, moments)
            elif output.name == ACTIONS and output.value is not None and actions:
                both = [*output.value, *actions]
                output = _with_claims(output, sorted(both, key=lambda claim: -claim["score"]))
            shared.append(output)
        return shared


def _with_claims(output: Output, claims: Claims) -> Output:
    return msgspec.structs.replace(output, value=claims, score=claims[0]["score"] if claims else None)
