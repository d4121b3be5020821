"""The batching policy alone, driven by a simulation whose clock jumps from event to event."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.batching import Batch, BatchingPolicy, BatchingSettings
from inference.cost import CostModel
from inference.ladder import Ladder
from inference.plan import Bucket
from inference.request import RowClass
from inference.row import Lane, Refusal, Row
from inference.runner import halves
from tests.examples import examples

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


# -- forming a batch ---------------------------------------------------------------------------------------------------


def test_an_idle_system_runs_a_lone_row_at_once_whatever_the_settings() -> None:
    for delay_s in (0.0, 0.1, 10.0):
        policy = make_policy(max_queue_delay_s=delay_s)
        row = make_row()
        policy.admit(row, 0.0)
        assert pop_rows(policy) == [row]


def test_rows_of_similar_length_share_and_a_long_one_does_not_join_a_short_leader() -> None:
    policy = make_policy()
    short = [make_row(8), make_row(9), make_row(10)]
    long = make_row(60)
    for row in (short[0], long, *short[1:]):
        policy.admit(row, 0.0)
    first = policy.pop(0.0).batch
    assert first is not None
    assert set(first.rows) == set(short)
    assert first.shape == Bucket(3, 10)
    assert first.tokens == 27
    policy.finished(first, None)
    assert pop_rows(policy) == [long]


def test_free_slots_share_what_is_queued() -> None:
    policy = make_policy(slots=2)
    for _ in range(6):
        policy.admit(make_row(), 0.0)
    assert len(pop_rows(policy)) == 3
    assert len(pop_rows(policy)) == 3


def test_a_shape_pads_up_to_a_bucket_where_the_backend_needs_it() -> None:
    policy = make_policy(exact=False)
    for tokens in (20, 21, 22):
        policy.admit(make_row(tokens), 0.0)
    batch = policy.pop(0.0).batch
    assert batch is not None
    assert batch.shape == Bucket(8, 32)


def test_finals_lead_and_interims_follow_until_they_have_waited_out_their_handicap() -> None:
    policy = make_policy(interim_handicap_s=0.05)
    interim = make_row(8, RowClass.INTERIM)
    final = make_row(8, arrived_s=0.01)
    policy.admit(interim, 0.0)
    policy.admit(final, 0.01)
    assert pop_rows(policy, 0.01) == [final]

    policy = make_policy(interim_handicap_s=0.05)
    policy.admit(interim := make_row(8, RowClass.INTERIM), 0.0)
    policy.admit(final := make_row(8, arrived_s=0.06), 0.06)
    assert pop_rows(policy, 0.06) == [interim, final]


def test_a_near_deadline_pulls_a_row_forward() -> None:
    policy = make_policy()
    relaxed = make_row(60, RowClass.INTERIM)
    urgent = make_row(8, RowClass.INTERIM, arrived_s=0.001, deadline_s=0.02)
    policy.admit(relaxed, 0.0)
    policy.admit(urgent, 0.001)
    assert pop_rows(policy, 0.002)[0] is urgent


def test_company_never_makes_the_leader_late() -> None:
    policy = make_policy()
    leader = make_row(16, deadline_s=0.004)
    policy.admit(leader, 0.0)
    for _ in range(10):
        policy.admit(make_row(16), 0.0)
    batch = policy.pop(0.0).batch
    assert batch is not None
    assert batch.rows[0] is leader
    assert 0.0 + batch.predicted_s <= 0.004


def test_lanes_never_mix() -> None:
    policy = make_policy()
    policy.admit(here := make_row(), 0.0)
    policy.admit(there := make_row(lane=OTHER), 0.0)
    assert pop_rows(policy) == [here]
    assert pop_rows(policy) == [there]


def test_a_configured_wait_starts_at_the_oldest_row_and_is_bounded_by_what_company_saves() -> None:
    policy = make_policy(slots=2, max_queue_delay_s=1.0)
    policy.admit(make_row(), 0.0)
    running = policy.pop(0.0).batch
    assert running is not None
    policy.admit(row := make_row(arrived_s=0.0002), 0.0002)
    pop = policy.pop(0.0004)
    assert pop.batch is None
    assert pop.wake_s == pytest.approx(0.0002 + B_S)  # waiting beyond the fixed cost never pays
    assert pop_rows(policy, pop.wake_s) == [row]


# -- the door ----------------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_background_first_and_finals_last() -> None:
    policy = make_policy(max_queued_rows=8)
    admitted = Counter[RowClass]()
    for row_class in (RowClass.BACKGROUND, RowClass.INTERIM, RowClass.FINAL):
        while (admission := policy.admit(make_row(row_class=row_class), 0.0)).refusal is None:
            admitted[row_class] += 1
        assert admission.refusal is Refusal.FULL
    assert admitted == {RowClass.BACKGROUND: 4, RowClass.INTERIM: 2, RowClass.FINAL: 2}


def test_a_row_no_bucket_holds_is_refused() -> None:
    assert make_policy().admit(make_row(129), 0.0).refusal is Refusal.TOO_LONG


def test_a_deadline_that_passed_or_cannot_be_met_is_refused() -> None:
    policy = make_policy()
    assert policy.admit(make_row(deadline_s=1.0), 1.0).refusal is Refusal.LATE
    for _ in range(100):
        assert policy.admit(make_row(16), 1.0).refusal is None
    assert policy.admit(make_row(16, deadline_s=1.01), 1.0).refusal is Refusal.HOPELESS
    assert policy.admit(make_row(16, deadline_s=2.0), 1.0).refusal is None


def test_work_of_a_lower_class_does_not_make_a_final_hopeless() -> None:
    policy = make_policy()
    for _ in range(100):
        policy.admit(make_row(16, RowClass.BACKGROUND), 0.0)
    assert policy.admit(make_row(16, deadline_s=0.01), 0.0).refusal is None


# -- replacing, cancelling, lateness -----------------------------------------------------------------------------------


def test_a_newer_interim_takes_the_place_of_the_queued_one() -> None:
    policy = make_policy()
    old = make_row(8, RowClass.INTERIM, key="u1", revision=1)
    new = make_row(9, RowClass.INTERIM, key="u1", revision=2, arrived_s=0.04)
    policy.admit(old, 0.0)
    assert policy.admit(new, 0.04).superseded is old
    assert policy.queued == 1
    assert new.order == old.order
    assert pop_rows(policy, 0.04) == [new]


def test_a_final_supersedes_its_interim_and_is_never_superseded_by_one() -> None:
    policy = make_policy()
    interim = make_row(8, RowClass.INTERIM, key="u1", revision=1)
    final = make_row(8, key="u1", revision=2)
    late_interim = make_row(8, RowClass.INTERIM, key="u1", revision=3)
    policy.admit(interim, 0.0)
    assert policy.admit(final, 0.0).superseded is interim
    assert policy.admit(late_interim, 0.0).superseded is late_interim
    assert pop_rows(policy) == [final]


def test_an_older_revision_is_superseded_on_arrival() -> None:
    policy = make_policy()
    policy.admit(make_row(key="u1", revision=5), 0.0)
    assert policy.admit(older := make_row(key="u1", revision=4), 0.0).superseded is older
    assert policy.queued == 1


def test_a_full_queue_still_takes_a_newer_revision() -> None:
    policy = make_policy(max_queued_rows=2)
    policy.admit(old := make_row(key="u1", revision=1), 0.0)
    policy.admit(make_row(), 0.0)
    assert policy.admit(make_row(), 0.0).refusal is Refusal.FULL
    assert policy.admit(make_row(key="u1", revision=2), 0.0).superseded is old


def test_cancel_drops_the_rows_of_one_call() -> None:
    policy = make_policy()
    gone = [make_row(owner="a", key="u1"), make_row(owner="a", lane=OTHER)]
    stays = make_row(owner="b")
    for row in (*gone, stays):
        policy.admit(row, 0.0)
    assert set(policy.cancel("a")) == set(gone)
    assert policy.depth(OTHER) == 0
    assert pop_rows(policy) == [stays]


def test_late_rows_are_dropped_when_popped() -> None:
    policy = make_policy()
    late = make_row(deadline_s=0.5)
    fine = make_row()
    policy.admit(late, 0.0)
    policy.admit(fine, 0.0)
    pop = policy.pop(0.6)
    assert pop.late == (late,)
    assert pop.batch is not None
    assert pop.batch.rows == (fine,)


def test_an_idle_slot_tries_a_row_the_prediction_gave_up() -> None:
    policy = make_policy()
    policy.admit(row := make_row(16, deadline_s=0.001), 0.0)
    assert pop_rows(policy) == [row]


# -- failure -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.data())
def test_halving_isolates_exactly_the_poisonous_row(count: int, data: st.DataObject) -> None:
    rows = [make_row() for _ in range(count)]
    poison = rows[data.draw(st.integers(0, count - 1))]
    answered: list[Row] = []
    blamed: list[Row] = []
    runs = 0
    todo: list[Sequence[Row]] = [rows]
    while todo:
        part = todo.pop()
        runs += 1
        if poison not in part:
            answered.extend(part)
        elif parts := halves(part):
            todo.extend(parts)
        else:
            blamed.extend(part)
    assert blamed == [poison]
    assert sorted([*answered, poison], key=id) == sorted(rows, key=id)
    assert runs <= 2 * math.ceil(math.log2(count)) + 1


# -- the promises, under adversarial traffic ---------------------------------------------------------------------------


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


@settings(max_examples=examples(150), deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.floats(0.0, 0.3), rows_strategy), max_size=80),
    cancels=st.dictionaries(st.floats(0.0, 0.3), st.sampled_from(["a", "b"]), max_size=2),
    slots=st.integers(1, 3),
    max_queued_rows=st.integers(1, 60),
    window_rows=st.integers(1, 64),
    max_padded_tokens=st.integers(1, 512),
    max_queue_delay_s=st.sampled_from([0.0, 0.0005, 0.1]),
    exact=st.booleans(),
)
def test_promises(
    arrivals: list[tuple[float, Row]],
    cancels: dict[float, str],
    slots: int,
    max_queued_rows: int,
    window_rows: int,
    max_padded_tokens: int,
    max_queue_delay_s: float,
    exact: bool,
) -> None:
    policy = make_policy(
        slots,
        exact=exact,
        max_queued_rows=max_queued_rows,
        window_rows=window_rows,
        max_padded_tokens=max_padded_tokens,
        max_queue_delay_s=max_queue_delay_s,
    )
    # Identities are a lane's own: the shell names the plan in them.
    for _, row in arrivals:
        row.identity = None if row.identity is None else (row.lane, row.owner, row.identity)
    simulation = Simulation(policy, slots)
    simulation.run(arrivals, cancels)

    # Every row is answered exactly once, and nothing stays behind.
    assert sorted(simulation.ends) == sorted(row.item for _, row in arrivals)
    assert all(len(ends) == 1 for ends in simulation.ends.values())
    assert policy.queued == 0
    for batch in simulation.batches:
        # No batch mixes lanes, leaves its bucket or exceeds the budget, unless a single row does.
        assert {row.lane for row in batch.rows} == {batch.lane}
        assert len(batch.rows) <= batch.shape.rows
        assert max(row.tokens for row in batch.rows) <= batch.shape.tokens
        assert any(batch.shape.rows <= b.rows and batch.shape.tokens <= b.tokens for b in LADDER.buckets)
        if len(batch.rows) > 1:
            assert len(batch.rows) * max(row.tokens for row in batch.rows) <= max_padded_tokens
        # No row runs after its deadline.
        assert all(batch.started_s < row.deadline_s for row in batch.rows)


@settings(max_examples=examples(60), deadline=None)
@given(
    victim_class=st.sampled_from(RowClass),
    victim_tokens=st.integers(1, 128),
    attack=st.lists(
        st.tuples(st.integers(1, 128), st.sampled_from(RowClass), st.sampled_from([math.inf, 0.05, 1.0])),
        min_size=1,
        max_size=6,
    ),
    rate_factor=st.floats(1.0, 4.0),
)
def test_nothing_starves_under_overload(
    victim_class: RowClass,
    victim_tokens: int,
    attack: list[tuple[int, RowClass, float]],
    rate_factor: float,
) -> None:
    """A row without a deadline starts once what arrived before it plus one handicap is worked off, whatever follows."""
    policy = make_policy(max_queued_rows=64)
    handicap_s = BatchingSettings().handicap_s(victim_class)
    victim = make_row(victim_tokens, victim_class)
    arrivals: list[tuple[float, Row]] = [(0.0, victim)]
    # Twice to four times what one slot can run, for three seconds, beginning with the victim.
    at_s, pattern = 0.0, itertools.cycle(attack)
    while at_s < 3.0 and len(arrivals) < 3000:
        tokens, row_class, slack_s = next(pattern)
        arrivals.append((at_s, make_row(tokens, row_class, deadline_s=at_s + slack_s)))
        at_s += (A_S * tokens + B_S) / rate_factor / 2.0
    simulation = Simulation(policy, 1)
    simulation.run(arrivals)
    # At most a full queue is ahead at the end of the handicap, each row at worst in a batch of its own.
    bound_s = handicap_s + 65 * (A_S * 512 + B_S)
    assert simulation.ends[victim.item] == ["done"]
    assert simulation.started_s[victim.item] <= bound_s


def test_an_utterance_that_is_revised_for_ever_is_still_answered() -> None:
    """Interims every 5 ms on a queue kept busy by finals: a revision must run within the handicap plus the backlog."""
    policy = make_policy(interim_handicap_s=0.05)
    arrivals = [
        (i * 0.005, make_row(8, RowClass.INTERIM, key="talker", revision=i, deadline_s=math.inf)) for i in range(400)
    ]
    arrivals += [(i * 0.0025, make_row(16)) for i in range(800)]
    simulation = Simulation(policy, 1)
    simulation.run(arrivals)
    talker = {row.item for _, row in arrivals if row.identity == "talker"}
    starts = sorted(at_s for item, at_s in simulation.started_s.items() if item in talker)
    gaps = [after - before for before, after in itertools.pairwise([0.0, *starts])]
    assert max(gaps) < 0.2


# -- fairness ----------------------------------------------------------------------------------------------------------

LONGEST_S = A_S * 256 + B_S
"""The largest batch of the default settings."""


def talk(owner: str, first_s: float, gap_s: float, until_s: float) -> list[tuple[float, Row]]:
    """Finals of a call that speaks."""
    times = [first_s + i * gap_s for i in range(int((until_s - first_s) / gap_s))]
    return [(at_s, make_row(12, owner=owner, deadline_s=at_s + 5.0)) for at_s in times]


@settings(max_examples=examples(25), deadline=None)
@given(
    slots=st.integers(1, 3),
    neighbours=st.integers(1, 8),
    flood_tokens=st.integers(1, 128),
    flood_class=st.sampled_from([RowClass.FINAL, RowClass.INTERIM]),
    slack_s=st.sampled_from([math.inf, 5.0, 0.3]),
    rate_factor=st.floats(0.5, 8.0),
    burst=st.integers(1, 200),
)
def test_a_call_that_floods_waits_behind_itself_and_not_its_neighbours_behind_it(
    slots: int,
    neighbours: int,
    flood_tokens: int,
    flood_class: RowClass,
    slack_s: float,
    rate_factor: float,
    burst: int,
) -> None:
    policy = make_policy(slots)
    talking = [row for i in range(neighbours) for row in talk(f"n{i}", 0.05 + i * 0.013, 0.25, 1.2)]
    # Bursts at up to eight times what all slots can do.
    gap_s = burst * (A_S * flood_tokens + B_S) / slots / rate_factor
    flood = [
        (at_s, make_row(flood_tokens, flood_class, owner="flood", deadline_s=at_s + slack_s))
        for at_s in (i * gap_s for i in range(min(int(1.0 / gap_s) + 1, 1 + 1500 // burst)))
        for _ in range(burst)
    ]
    simulation = Simulation(policy, slots)
    simulation.run(talking + flood)
    for at_s, row in talking:
        assert simulation.ends[row.item] == ["done"]
        # What runs when it comes, and a batch of neighbours; without the rule it waits for the whole flood.
        assert simulation.started_s[row.item] - at_s <= 2 * LONGEST_S + neighbours * (A_S * 12 + B_S)


def test_a_flood_leaves_room_at_the_door() -> None:
    policy = make_policy(max_queued_rows=100)
    answers = [policy.admit(make_row(owner="flood"), 0.0).refusal for _ in range(100)]
    assert answers.count(None) == 25
    assert set(answers[25:]) == {Refusal.FLOOD}
    assert policy.admit(make_row(owner="quiet", deadline_s=0.01), 0.0).refusal is None  # nor is it hopeless behind it


def test_rows_that_belong_to_no_call_are_no_flood() -> None:
    policy = make_policy(max_queued_rows=100)
    assert all(policy.admit(make_row(owner=""), 0.0).refusal is None for _ in range(100))


# -- shadow rows -------------------------------------------------------------------------------------------------------


def test_shadow_rows_come_after_all_others_and_never_take_the_last_slot() -> None:
    policy = make_policy(slots=2)
    shadows = [make_row(lane=OTHER, row_class=RowClass.SHADOW, deadline_s=60.0) for _ in range(6)]
    for row in shadows:
        policy.admit(row, 0.0)
    policy.admit(live := make_row(row_class=RowClass.BACKGROUND, arrived_s=1.0), 1.0)
    first = policy.pop(1.0).batch
    assert first is not None
    assert first.rows == (live,)
    assert policy.pop(1.0).batch is None  # one runs, and the other slot is for the next live row
    policy.finished(first, None)
    assert len(pop_rows(policy, 1.0)) <= BatchingSettings().max_shadow_rows
    assert policy.pop(1.0).batch is None


@settings(max_examples=examples(25), deadline=None)
@given(slots=st.integers(1, 3), rate=st.floats(10.0, 5000.0), tokens=st.integers(1, 60))
def test_shadow_rows_delay_a_live_row_by_at_most_one_small_batch(slots: int, rate: float, tokens: int) -> None:
    policy = make_policy(slots)
    live = talk("call", 0.01, 0.05, 2.0)
    shadows = [
        (i / rate, make_row(tokens, RowClass.SHADOW, lane=OTHER, owner="copy", deadline_s=i / rate + 0.5))
        for i in range(int(min(2.0 * rate, 1000)))
    ]
    simulation = Simulation(policy, slots)
    simulation.run(live + shadows)
    bound_s = (A_S * tokens * 4 + B_S) if slots == 1 else 0.0
    for at_s, row in live:
        assert simulation.ends[row.item] == ["done"]
        assert simulation.started_s[row.item] - at_s <= bound_s + 1e-9
