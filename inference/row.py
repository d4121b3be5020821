"""A row in the queue, what its call has queued beside it, and what became of it at the door. Plain data."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from inference.request import RowClass

Lane = tuple[str, int]
"""Rows of one lane may share a batch: model name and version."""


class Refusal(Enum):
    """Why a row was not admitted."""

    FULL = "queue full"
    FLOOD = "too many rows of one call queued"
    LATE = "deadline passed"
    HOPELESS = "deadline cannot be met"
    TOO_LONG = "longer than any bucket"


@dataclass(slots=True)
class Account:
    """One call's queued rows of one class.

    Attributes:
        rows: How many.
        cost_s: What they would take one by one.
        last_s: Arrival that the last of them counts from; its next row is never ahead of it.
    """

    rows: int = 0
    cost_s: float = 0.0
    last_s: float = -math.inf

    def count(self, row: Row, sign: int) -> None:
        """Note a row that was queued (1), or is queued no longer (-1)."""
        self.rows += sign
        if self.rows:
            self.cost_s = max(self.cost_s + sign * row.cost_s, 0.0)
            self.last_s = max(self.last_s, row.since_s)
        else:
            self.cost_s, self.last_s = 0.0, -math.inf


class Row(msgspec.Struct, eq=False):
    """One row in the queue. A `Struct`, as one is built for every request.

    Attributes:
        lane: Rows of one lane may share a batch.
        tokens: Its length.
        row_class: Who goes first.
        owner: Call it belongs to.
        identity: Rows of one identity replace each other by revision; None: never replaced.
        revision: Grows with the utterance.
        deadline_s: When the answer becomes worthless.
        arrived_s: When it was submitted.
        item: The shell's own object.
        since_s: Arrival that counts for its place: inherited from a row it replaces, later where its call floods.
        is_pushed: Whether its call's own rows made it count as later.
        cost_s: What it would take alone, when it was queued.
        order: Place in the queue, set by the policy.
        sequence: Breaks ties in order of arrival, set by the policy.
        account: What its call has queued in its class, set by the policy; None where it belongs to none.
    """

    lane: Lane
    tokens: int
    row_class: RowClass
    owner: str
    identity: Hashable | None
    revision: int
    deadline_s: float
    arrived_s: float
    item: Any = None
    since_s: float = 0.0
    is_pushed: bool = False
    cost_s: float = 0.0
    order: float = 0.0
    sequence: int = 0
    account: Account | None = None


class Admission(msgspec.Struct, frozen=True):
    """What happened to a submitted row.

    Attributes:
        refusal: Why it was not taken; None: it is queued.
        superseded: The row that will not run: the older one it replaced, or itself where a newer one is queued.
    """

    refusal: Refusal | None = None
    superseded: Row | None = None
