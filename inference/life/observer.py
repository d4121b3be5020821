"""Who hears of what happens to versions."""

from __future__ import annotations

from typing import Protocol

from inference.life.shadow import Comparison


class LifeObserver(Protocol):
    """Hears of changes. Called on the event loop's thread; must not block."""

    def changed(self, model: str, change: str) -> None:
        """A version was `loaded`, `refused`, `shadowed`, `canaried`, `promoted`, `rolled_back` or `unloaded`."""

    def compared(self, model: str, output: str, result: Comparison) -> None:
        """A shadow answered, or did not."""
