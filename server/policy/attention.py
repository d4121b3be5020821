"""The attention budget: at most k new cards in any minute of audio time, best first."""

from __future__ import annotations

import msgspec

from server.policy.rules import ActionRule, Attention

WINDOW_MS = 60_000

URGENT_PRIORITY = 7
"""From here on a card may use the part of the budget that is reserved."""


def may_bypass(rule: ActionRule) -> bool:
    """An alert of the highest priority is never held back; it still uses up attention."""
    return rule.type == "alert" and rule.priority == 9


def is_urgent(rule: ActionRule) -> bool:
    """True if it may use the reserved part of the budget."""
    return rule.priority >= URGENT_PRIORITY


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """One card shown: when, and whether it was urgent."""

    at_ms: int
    is_urgent: bool


class AttentionBudget:
    """Counts the cards shown in the last minute.

    Args:
        attention: The limits.
        shown: The cards shown so far, ascending by time; the budget owns the list from here on.
    """

    def __init__(self, attention: Attention, shown: list[Shown]) -> None:
        self._attention = attention
        self._shown = shown

    def is_free(self, rule: ActionRule, at_ms: int) -> bool:
        """True if a card of this rule may be shown now."""
        return self.free_ms(rule, at_ms) <= at_ms

    def spend(self, rule: ActionRule, at_ms: int) -> None:
        """Note a card shown now."""
        self._shown[:] = [*self._recent(at_ms), Shown(at_ms, is_urgent(rule))]

    def free_ms(self, rule: ActionRule, at_ms: int) -> int:
        """Audio time from which a card of this rule may be shown: now, or when enough of the last minute is over."""
        if may_bypass(rule):
            return at_ms
        recent = self._recent(at_ms)
        k, reserved = self._attention.max_cards_per_min, self._attention.reserved_for_urgent
        free_ms = _free_ms(recent, k, at_ms)
        if not is_urgent(rule):
            ordinary = [shown for shown in recent if not shown.is_urgent]
            free_ms = max(free_ms, _free_ms(ordinary, k - reserved, at_ms))
        return free_ms

    def _recent(self, at_ms: int) -> list[Shown]:
        return [shown for shown in self._shown if shown.at_ms > at_ms - WINDOW_MS]


def _free_ms(recent: list[Shown], limit: int, at_ms: int) -> int:
    return at_ms if len(recent) < limit else recent[-limit].at_ms + WINDOW_MS
