"""Rows and a policy to queue them, and a simulation whose clock jumps from event to event."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field

from hypothesis import strategies as st

from inference.batching import Batch, BatchingPolicy, BatchingSettings
from inference.cost import CostModel
from inference.ladder import Ladder
from inference.plan import Bucket
from inference.request import RowClass
from inference.row import Lane, Row

LANE: Lane = ("utterance", 1)
OTHER: Lane = ("other", 3)
A_S, B_S = 1e-4, 1e-3
LADDER = Ladder([Bucket(16, 16), Bucket(8, 32), Bucket(2, 128)], exact=True)


def cost_model() -> CostModel:
    cost = CostModel()
    cost.calibrate((n, A_S * n + B_S) for n in (8, 64, 256))
    return cost


def make_policy(slots: int = 1, *, exact: bool = True, **changes: float) -> BatchingPolicy:
    policy = BatchingPolicy(BatchingSettings(**changes), slots)  # type: ignore[arg-type]
    ladder = LADDER if exact else Ladder(LADDER.buckets, exact=False)
    policy.open_lane(LANE, ladder, cost_model())
    policy.open_lane(OTHER, ladder, cost_model())
    return policy


_names = itertools.count()


def make_row(
    tokens: int = 8,
    row_class: RowClass = RowClass.FINAL,
    *,
    arrived_s: float = 0.0,
    key: str | None = None,
    revision: int = 0,
    deadline_s: float = math.inf,
    owner: str = "call",
    lane: Lane = LANE,
) -> Row:
    return Row(lane, tokens, row_class, owner, key, revision, deadline_s, arrived_s, item=next(_names))


def pop_rows(policy: BatchingPolicy, now_s: float = 0.0) -> list[Row]:
    batch = policy.pop(now_s).batch
    return [] if batch is None else list(batch.rows)


@dataclass
class Simulation:
    """Slots that take as long as the true cost says, and arrivals at given times."""

    policy: BatchingPolicy
    slots: int
    now_s: float = 0.0
    free: int = 0
    events: list[tuple[float, int, Batch | None]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    ends: dict[int, list[str]] = field(default_factory=dict)
    started_s: dict[int, float] = field(default_factory=dict)
    _sequence: itertools.count[int] = field(default_factory=itertools.count)

    def end(self, row: Row, how: str) -> None:
        self.ends.setdefault(row.item, []).append(how)

    def submit(self, row: Row) -> None:
        row.arrived_s = self.now_s
        admission = self.policy.admit(row, self.now_s)
        if admission.refusal is not None:
            self.end(row, admission.refusal.value)
        if admission.superseded is not None:
            self.end(admission.superseded, "superseded")

    def dispatch(self) -> None:
        while self.free:
            pop = self.policy.pop(self.now_s)
            for row in pop.late:
                assert row.deadline_s < math.inf
                self.end(row, "late")
            if pop.wake_s is not None:
                assert pop.wake_s > self.now_s
                heapq.heappush(self.events, (pop.wake_s, next(self._sequence), None))
            if pop.batch is None:
                return
            self.free -= 1
            self.batches.append(pop.batch)
            for row in pop.batch.rows:
                self.started_s[row.item] = self.now_s
            duration_s = A_S * pop.batch.shape.padded_tokens + B_S
            heapq.heappush(self.events, (self.now_s + duration_s, next(self._sequence), pop.batch))

    def run(self, arrivals: list[tuple[float, Row]], cancels: dict[float, str] | None = None) -> None:
        self.free = self.slots
        todo = sorted(arrivals, key=lambda arrival: arrival[0])
        cancel_at = sorted((cancels or {}).items())
        while todo or self.events or cancel_at:
            times = [todo[0][0]] if todo else []
            times += [self.events[0][0]] if self.events else []
            times += [cancel_at[0][0]] if cancel_at else []
            self.now_s = max(self.now_s, min(times))
            while todo and todo[0][0] <= self.now_s:
                self.submit(todo.pop(0)[1])
            while cancel_at and cancel_at[0][0] <= self.now_s:
                for row in self.policy.cancel(cancel_at.pop(0)[1]):
                    self.end(row, "cancelled")
            while self.events and self.events[0][0] <= self.now_s:
                _, _, batch = heapq.heappop(self.events)
                if batch is not None:
                    self.free += 1
                    self.policy.finished(batch, A_S * batch.shape.padded_tokens + B_S)
                    for row in batch.rows:
                        self.end(row, "done")
            self.dispatch()


rows_strategy = st.builds(
    make_row,
    tokens=st.integers(1, 140),
    row_class=st.sampled_from(RowClass),
    key=st.one_of(st.none(), st.sampled_from(["u1", "u2", "u3"])),
    revision=st.integers(0, 5),
    deadline_s=st.one_of(st.just(math.inf), st.floats(0.0, 0.5)),
    owner=st.sampled_from(["a", "b", "c"]),
    lane=st.sampled_from([LANE, OTHER]),
)


LONGEST_S = A_S * 256 + B_S
"""The largest batch of the default settings."""


def talk(owner: str, first_s: float, gap_s: float, until_s: float) -> list[tuple[float, Row]]:
    """Finals of a call that speaks."""
    times = [first_s + i * gap_s for i in range(int((until_s - first_s) / gap_s))]
    return [(at_s, make_row(12, owner=owner, deadline_s=at_s + 5.0)) for at_s in times]
