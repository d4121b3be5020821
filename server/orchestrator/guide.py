"""What one policy version asks of the engine, compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inference.plan import Plan
from inference.request import PrototypeSet


@dataclass(frozen=True, slots=True)
class Guide:
    """A compiled policy: shared by all calls that are pinned to it.

    Attributes:
        name: Policy name and version.
        plan: Steps to run.
        prototypes: The tenant's labels by example, None if it has none.
        pins: Model name to version, empty: what serves now.
    """

    name: str
    plan: Plan
    prototypes: PrototypeSet | None = None
    pins: Mapping[str, int] = field(default_factory=dict)
