"""A clock for what is told the time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """Seconds that stand still until a test moves them."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s
