"""The attention budget: at most k new cards in any minute of audio time, best first."""

from __future__ import annotations

from server.policy.rules import ActionRule

WINDOW_MS = 60_000


def may_bypass(rule: ActionRule) -> bool:
    """An alert of the highest priority is never held back; it still uses up attention."""
    return rule.type == "alert" and rule.priority == 9


class AttentionBudget:
    """Counts the cards shown in the last minute.

    Args:
        max_cards_per_min: k.
        shown_ms: Audio times of the cards shown so far, ascending; the budget owns the list from here on.
    """

    def __init__(self, max_cards_per_min: int, shown_ms: list[int]) -> None:
        self._max = max_cards_per_min
        self._shown_ms = shown_ms

    def is_free(self, at_ms: int) -> bool:
        """True if one more card may be shown now."""
        return self._count(at_ms) < self._max

    def spend(self, at_ms: int) -> None:
        """Note a card shown now."""
        self._shown_ms[:] = [shown for shown in self._shown_ms if shown > at_ms - WINDOW_MS]
        self._shown_ms.append(at_ms)

    def free_ms(self, at_ms: int) -> int:
        """Audio time from which one more card may be shown."""
        recent = [shown for shown in self._shown_ms if shown > at_ms - WINDOW_MS]
        return at_ms if len(recent) < self._max else recent[-self._max] + WINDOW_MS

    def _count(self, at_ms: int) -> int:
        return sum(shown > at_ms - WINDOW_MS for shown in self._shown_ms)
