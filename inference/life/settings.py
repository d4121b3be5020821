"""How new versions are taken in, and when they are given up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rollout = Literal["direct", "shadow", "canary"]
"""What a new version does first: answer all calls, answer nobody and be compared, answer a share of the calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeSettings:
    """How versions live.

    Attributes:
        poll_s: How often the folder is looked at, and versions on trial are judged.
        settle_s: A version is taken once nothing of its model changed for so long.
        rollout: What a new version does first.
        shadow_ratio: Share of the rows that a version in shadow is asked as well.
        canary_ratio: Share of the calls that a canary answers.
        probation_s: How long the version before stays loaded and a new one is judged after it took all calls.
        max_load_s: Longest that trial and warm-up of a version may take together.
        min_rows: Rows of the last minute below which shares say nothing.
        max_failed_ratio: Share of failed rows above which a version is given up.
        max_failed_in_row: Failed rows one after another that end it at once.
        max_latency_ratio: Times as long as the version that serves it may take for the same batch.
    """

    poll_s: float = 2.0
    settle_s: float = 2.0
    rollout: Rollout = "direct"
    shadow_ratio: float = 0.1
    canary_ratio: float = 0.1
    probation_s: float = 600.0
    max_load_s: float = 120.0
    min_rows: int = 50
    max_failed_ratio: float = 0.02
    max_failed_in_row: int = 5
    max_latency_ratio: float = 3.0

    def __post_init__(self) -> None:
        for name in ("poll_s", "max_load_s", "min_rows", "max_failed_in_row", "max_latency_ratio"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("shadow_ratio", "canary_ratio", "max_failed_ratio"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
