"""A tenant's labels among those that a general model knows."""

from __future__ import annotations

from typing import Any

import pytest

from inference.plan import Plan
from server.orchestrator.guide import Guide

BOOK = {"label": "book", "score": 0.9, "in_scope": True, "in_scope_score": 0.8}
CLAIMS = [{"label": "card", "score": 0.9}, {"label": "pets", "score": 0.8}]


@pytest.mark.parametrize(
    ("output", "value", "expected"),
    [
        ("intent", BOOK, BOOK),
        ("intent", {**BOOK, "label": "weather"}, {**BOOK, "label": "weather", "in_scope": False}),
        ("intent", None, None),
        ("intent", {"score": 0.4}, {"score": 0.4}),
        ("parts", CLAIMS, CLAIMS[:1]),
        ("other", CLAIMS, CLAIMS),
    ],
)
def test_labels_of_others_are_out_of_scope(output: str, value: Any, expected: Any) -> None:
    plan: Plan = None  # type: ignore[assignment]  # not looked at
    guide = Guide("shop@1", plan, labels={"intent": frozenset({"book"}), "parts": frozenset({"card"})})
    assert guide.narrow(output, value) == expected
