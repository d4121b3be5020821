"""The batching policy: which queued rows run next, together. Pure: no thread, no loop, no clock of its own.

    admit ──▶ queue (one per lane, by order) ──pop──▶ batch ──▶ finished ──▶ learned cost
       └▶ refused, superseded        └▶ late

Slot first, batch second: the shell asks for a batch only when a slot is free, so load fills batches and an idle system
adds no wait. `now_s` is always given. Not thread-safe: the engine calls it under one lock.

A row's **order** is its arrival plus the handicap of its class, or sooner if its deadline asks for it, but never before
its arrival. So a row is overtaken only by rows that arrived at most one handicap later, and the row with the lowest
order always leads the next batch: nothing starves.

Calls share fairly: a row counts as having come when its call's own queued rows could be done, one by one on one slot.
So a call that floods waits behind itself, and one that does not is ahead of nearly all that the flood has queued.
A **shadow** row, which nobody waits for, comes after all others, and leaves a slot free.

Source: text-embeddings-inference `core/src/queue.rs`: padded-token budget; "Start-time Fair Queuing" (Goyal, 1996).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import msgspec

from inference.cost import CostModel
from inference.ladder import Ladder
from inference.plan import Bucket
from inference.request import RowClass
from inference.row import Account, Admission, Lane, Refusal, Row

_LEAST_OWNER_ROWS = 16  # more than a call that speaks ever has queued
_MAX_OWNERS = 1024  # calls remembered before those with nothing queued are forgotten


@dataclass(frozen=True, slots=True)
class BatchingSettings:
    """How rows are grouped. The defaults were measured for a 384-wide encoder on CPU (`benchmarks/engine`).

    Attributes:
        max_queued_rows: Bound of the queue. Interims may fill three quarters of it, background rows half.
        window_rows: How many of the most urgent rows are looked at when a batch is formed.
        max_batch_rows: Most rows of a batch.
        max_padded_tokens: Most rows x longest row of a batch; a single longer row still runs, alone.
        interim_handicap_s: How much later than it arrived an interim is treated as having arrived.
        background_handicap_s: The same for background rows.
        max_queue_delay_s: Longest wait for company, from the oldest row's arrival; 0 never waits.
        max_shadow_rows: Most rows of a batch of shadow rows: how long a live row may wait for one.
    """

    max_queued_rows: int = 1024
    window_rows: int = 256
    max_batch_rows: int = 16
    max_padded_tokens: int = 256
    interim_handicap_s: float = 0.05
    background_handicap_s: float = 0.5
    max_queue_delay_s: float = 0.0
    max_shadow_rows: int = 4

    def __post_init__(self) -> None:
        for name in ("max_queued_rows", "window_rows", "max_batch_rows", "max_padded_tokens", "max_shadow_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"batching.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("interim_handicap_s", "background_handicap_s", "max_queue_delay_s"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"batching.{name} must be a finite time of at least 0, not {getattr(self, name)}")

    def handicap_s(self, row_class: RowClass) -> float:
        """How much later than its arrival a row of this class is ordered."""
        return (0.0, self.interim_handicap_s, self.background_handicap_s, math.inf)[row_class]

    def max_rows_queued(self, row_class: RowClass) -> int:
        """Queue length at which a row of this class is refused; the rest is kept for those before it."""
        return max(1, self.max_queued_rows * (4, 3, 2, 1)[row_class] // 4)

    @property
    def max_owner_rows(self) -> int:
        """Rows of a class that one call may have queued: a quarter of all, so that none closes the door for others."""
        return max(_LEAST_OWNER_ROWS, self.max_queued_rows // 4)


class Batch(msgspec.Struct, frozen=True, eq=False):
    """Rows that run together.

    Attributes:
        lane: Model and version.
        rows: In order of urgency; the first is the leader.
        shape: Rows and tokens of the padded tensor.
        predicted_s: What the learned cost says it takes.
        started_s: When it was formed.
    """

    lane: Lane
    rows: tuple[Row, ...]
    shape: Bucket
    predicted_s: float
    started_s: float

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return sum(row.tokens for row in self.rows)


class Pop(msgspec.Struct, frozen=True):
    """The next batch, or why there is none.

    Attributes:
        batch: What to run; None: nothing now.
        late: Rows dropped because they can no longer be ready in time.
        wake_s: When to ask again though nothing happens in between; None: ask at the next arrival or free slot.
    """

    batch: Batch | None = None
    late: tuple[Row, ...] = ()
    wake_s: float | None = None


_LENGTH = attrgetter("tokens")
_URGENCY = attrgetter("order", "sequence")


@dataclass(slots=True)
class _Queue:
    """One lane: its ladder, its cost, and its rows as sorted `(order, sequence, row)`."""

    ladder: Ladder
    cost: CostModel
    entries: list[tuple[float, int, Row]] = field(default_factory=list)


class BatchingPolicy:
    """Rows in, batches out. See the module for the rules.

    Every admitted row leaves exactly once: in a batch, as late, as superseded or as cancelled.
    """

    def __init__(self, settings: BatchingSettings, slots: int) -> None:
        """Start empty.

        Args:
            settings: See there.
            slots: Batches that run at the same time.
        """
        self._settings = settings
        self._slots = slots
        self._lanes: dict[Lane, _Queue] = {}
        self._newest: dict[Hashable, Row] = {}
        self._running: list[Batch] = []
        self._tokens_queued = [0] * len(RowClass)
        self._tokens_pushed = 0
        self._accounts: dict[tuple[str, RowClass], Account] = {}
        self._max_rows_queued = [settings.max_rows_queued(row_class) for row_class in RowClass]
        self._handicaps_s = [settings.handicap_s(row_class) for row_class in RowClass]
        self._max_owner_rows = settings.max_owner_rows
        self._queued = 0
        self._sequence = 0

    @property
    def queued(self) -> int:
        """Rows waiting."""
        return self._queued

    def open_lane(self, lane: Lane, ladder: Ladder, cost: CostModel) -> None:
        """Accept rows of a model version."""
        self._lanes[lane] = _Queue(ladder, cost)

    def close_lane(self, lane: Lane) -> None:
        """Forget a drained lane.

        Raises:
            ValueError: If rows of it are still queued.
        """
        if self._lanes[lane].entries:
            raise ValueError(f"rows of {lane} are still queued")
        del self._lanes[lane]

    def admit(self, row: Row, now_s: float) -> Admission:
        """Queue a row, or say why not.

        A row replaces the queued row of the same identity and a lower revision and takes over the time that one has
        waited, so a stream of interims cannot push its own utterance back for ever. A queued final is replaced only
        by a final, and a row older than the queued one is itself superseded.
        """
        lane = self._lanes[row.lane]
        row.since_s, row.is_pushed = row.arrived_s, False
        older = None if row.identity is None else self._newest.get(row.identity)
        if older is not None:
            if row.revision < older.revision or row.row_class > older.row_class == RowClass.FINAL:
                return Admission(superseded=row)
            if row.revision == older.revision:
                older = None  # The same words asked again, by another consumer: both are answered.
        row.account = account = self._account(row)
        if older is not None and older.row_class is row.row_class:
            row.since_s, row.is_pushed = older.since_s, older.is_pushed
        else:
            if older is not None:
                row.since_s = min(row.since_s, older.since_s)
            if account is not None and account.rows:
                row.since_s = max(row.since_s + account.cost_s, account.last_s)
                row.is_pushed = True
        refusal = self._refusal(lane, row, now_s, replaces=older is not None)
        if refusal is not None:
            return Admission(refusal)
        if older is not None:
            self._remove(older)
        self._enqueue(lane, row)
        return Admission(superseded=older)

    def cancel(self, owner: str) -> list[Row]:
        """Drop every queued row of a call."""
        rows = [row for lane in self._lanes.values() for _, _, row in lane.entries if row.owner == owner]
        for row in rows:
            self._remove(row)
        return rows

    def clear(self) -> list[Row]:
        """Drop every queued row."""
        rows = [row for lane in self._lanes.values() for _, _, row in lane.entries]
        for row in rows:
            self._remove(row)
        return rows

    def pop(self, now_s: float) -> Pop:
        """Form the next batch for a free slot. The caller must answer `late` and report the batch to `finished`."""
        late: list[Row] = []
        while (lane := self._most_urgent()) is not None:
            leader = lane.entries[0][2]
            if self._is_late(lane, leader, now_s):
                self._remove(leader)
                late.append(leader)
                continue
            if leader.row_class is RowClass.SHADOW and not self._has_room_for_shadow():
                break
            rows = self._company(lane, leader, now_s)
            wake_s = self._wait_until(lane, rows, now_s)
            if wake_s is not None:
                return Pop(None, tuple(late), wake_s)
            self._take(lane, rows)
            shape = lane.ladder.fit(len(rows), max(map(_LENGTH, rows)))
            rows.sort(key=_URGENCY)
            batch = Batch(leader.lane, tuple(rows), shape, lane.cost.predict_s(shape.padded_tokens), now_s)
            self._running.append(batch)
            return Pop(batch, tuple(late))
        return Pop(None, tuple(late))

    def finished(self, batch: Batch, duration_s: float | None) -> None:
        """Free the slot of a batch.

        Args:
            batch: From `pop`.
            duration_s: What its model run took; None where it failed, or where not all of it ran.
        """
        self._running.remove(batch)
        if duration_s is not None:
            self._lanes[batch.lane].cost.observe(batch.shape.padded_tokens, duration_s)

    # -- the rules ---------------------------------------------------------------------------------------------------

    def _account(self, row: Row) -> Account | None:
        """What a row's call has queued in its class; None where it belongs to no call."""
        if not row.owner:
            return None
        key = (row.owner, row.row_class)
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= _MAX_OWNERS:
                self._accounts = {known: used for known, used in self._accounts.items() if used.rows}
            account = self._accounts[key] = Account()
        return account

    def _refusal(self, lane: _Queue, row: Row, now_s: float, *, replaces: bool) -> Refusal | None:
        if row.tokens > lane.ladder.max_tokens:
            return Refusal.TOO_LONG
        if now_s >= row.deadline_s:
            return Refusal.LATE
        if not replaces and self._queued >= self._max_rows_queued[row.row_class]:
            return Refusal.FULL
        if not replaces and row.account is not None and row.account.rows >= self._max_owner_rows:
            return Refusal.FLOOD
        if row.deadline_s < math.inf and self._queued and self._ready_s(lane, row, now_s) > row.deadline_s:
            return Refusal.HOPELESS
        return None

    def _ready_s(self, lane: _Queue, row: Row, now_s: float) -> float:
        """When a new row will be ready: a slot frees, what goes before it runs, then its own batch."""
        free_s = now_s
        if len(self._running) >= self._slots:
            free_s = max(now_s, min(batch.started_s + batch.predicted_s for batch in self._running))
        tokens_ahead = sum(self._tokens_queued[: row.row_class + 1]) + (self._tokens_pushed if row.is_pushed else 0)
        batches_ahead = tokens_ahead / self._settings.max_padded_tokens
        ahead_s = lane.cost.a_s * tokens_ahead + lane.cost.b_s * batches_ahead
        return free_s + ahead_s / self._slots + lane.cost.predict_s(row.tokens)

    def _enqueue(self, lane: _Queue, row: Row) -> None:
        # A deadline pulls a row forward until it would start just in time, but never before its arrival.
        row.cost_s = lane.cost.predict_s(row.tokens)
        start_s = row.deadline_s - 2.0 * row.cost_s
        row.order = max(row.since_s, min(row.since_s + self._handicaps_s[row.row_class], start_s))
        if row.row_class is RowClass.SHADOW:
            row.order = math.inf
        self._sequence += 1
        row.sequence = self._sequence
        insort(lane.entries, (row.order, row.sequence, row))
        self._count(row, 1)
        if row.identity is not None:
            self._newest[row.identity] = row

    def _remove(self, row: Row) -> None:
        entries = self._lanes[row.lane].entries
        del entries[bisect_left(entries, (row.order, row.sequence))]  # the prefix finds it
        self._forget(row)

    def _take(self, lane: _Queue, rows: Sequence[Row]) -> None:
        """Remove rows of the window."""
        taken = {row.sequence for row in rows}
        window = self._settings.window_rows
        lane.entries[:window] = [entry for entry in lane.entries[:window] if entry[1] not in taken]
        for row in rows:
            self._forget(row)

    def _forget(self, row: Row) -> None:
        self._count(row, -1)
        if row.identity is not None and self._newest.get(row.identity) is row:
            del self._newest[row.identity]

    def _count(self, row: Row, sign: int) -> None:
        self._queued += sign
        if row.is_pushed:
            self._tokens_pushed += sign * row.tokens
        else:
            self._tokens_queued[row.row_class] += sign * row.tokens
        if row.account is not None:
            row.account.count(row, sign)

    def _has_room_for_shadow(self) -> bool:
        """Whether a slot is left for the next live row, or there is but one and it is free."""
        return len(self._running) + 1 < max(self._slots, 2)

    def _most_urgent(self) -> _Queue | None:
        return min((q for q in self._lanes.values() if q.entries), key=lambda q: q.entries[0][:2], default=None)

    def _is_late(self, lane: _Queue, row: Row, now_s: float) -> bool:
        if now_s >= row.deadline_s:
            return True
        # Prediction decides only while others wait: an idle slot tries, which also corrects a cost learned too high.
        return self._queued > 1 and now_s + lane.cost.predict_s(row.tokens) > row.deadline_s

    def _company(self, lane: _Queue, leader: Row, now_s: float) -> list[Row]:
        """The leader and those of the window closest to it in length: as many as make each token cheapest.

        Grows from the leader over the window sorted by length, on the side that adds less padding, and keeps as many
        as have the lowest learned cost per token that is not padding. Rows of a lower class join only once they have
        waited out their handicap. Free slots share what is queued.
        """
        settings = self._settings
        a_s, b_s = lane.cost.a_s, lane.cost.b_s
        free_slots = max(1, self._slots - len(self._running))
        max_rows = min(settings.max_batch_rows, math.ceil(self._queued / free_slots))
        if leader.row_class is RowClass.SHADOW:
            max_rows = min(max_rows, settings.max_shadow_rows)
        if max_rows <= 1:
            return [leader]
        budget = settings.max_padded_tokens
        if leader.deadline_s < math.inf and a_s > 0.0:
            budget = min(budget, int((leader.deadline_s - now_s - b_s) / a_s))
        leader_class = leader.row_class

        def next_able(place: int, way: int) -> int:
            """Skip rows that must wait, and those that would be late in a batch of their own.

            The latter are left for their turn to lead, when they are dropped.
            """
            while 0 <= place < len(window):
                row = window[place]
                is_due = row.row_class <= leader_class or row.order <= now_s
                if is_due and row.deadline_s - now_s > a_s * row.tokens + b_s:
                    return place
                place += way
            return -1

        window = [row for _, _, row in lane.entries[: settings.window_rows]]
        window.sort(key=_LENGTH)
        at = window.index(leader)
        low, high = next_able(at - 1, -1), next_able(at + 1, 1)
        rows = [leader]
        longest = tokens = leader.tokens
        best, best_cost_s = 1, (a_s * longest + b_s) / tokens
        while len(rows) < max_rows:
            shorter = longest - window[low].tokens if low >= 0 else math.inf
            longer = (window[high].tokens - longest) * len(rows) if high >= 0 else math.inf
            if shorter <= longer and low >= 0:
                row, low = window[low], next_able(low - 1, -1)
            elif high >= 0:
                row, high = window[high], next_able(high + 1, 1)
                longest = row.tokens
            else:
                break
            rows.append(row)
            tokens += row.tokens
            padded = len(rows) * longest
            if padded > budget or len(rows) > lane.ladder.max_rows(longest):
                break
            cost_s = (a_s * padded + b_s) / tokens
            if cost_s <= best_cost_s:
                best, best_cost_s = len(rows), cost_s
        del rows[best:]
        return rows

    def _wait_until(self, lane: _Queue, rows: Sequence[Row], now_s: float) -> float | None:
        """When to stop waiting for company; None: run now.

        Waiting pays at most the fixed cost that company would share, so it is bounded by that; an idle system and a
        batch that is already full never wait.
        """
        delay_s = min(self._settings.max_queue_delay_s, lane.cost.b_s)
        if delay_s <= 0.0 or not self._running or len(rows) >= self._settings.max_batch_rows:
            return None
        until_s = min(row.arrived_s for row in rows) + delay_s
        soonest_s = min(row.deadline_s - lane.cost.predict_s(row.tokens) for row in rows)
        until_s = min(until_s, soonest_s)
        return until_s if until_s > now_s else None
