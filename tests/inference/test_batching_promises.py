"""What the batching policy promises under any traffic: nothing lost, nothing starved, no call ahead by flooding."""

from __future__ import annotations

import itertools
import math

from hypothesis import example, given, settings
from hypothesis import strategies as st

from inference.batching import BatchingSettings
from inference.request import RowClass
from inference.row import Refusal, Row
from tests.examples import examples
from tests.inference.queueing import (
    A_S,
    B_S,
    LADDER,
    LONGEST_S,
    OTHER,
    Simulation,
    make_policy,
    make_row,
    pop_rows,
    rows_strategy,
    talk,
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
        st.tuples(st.integers(8, 128), st.sampled_from(RowClass), st.sampled_from([math.inf, 0.01, 0.05, 1.0])),
        min_size=1,
        max_size=6,
    ),
    attackers=st.sampled_from([1, 3, 10_000]),
    rate_factor=st.floats(1.0, 4.0),
)
@example(RowClass.BACKGROUND, 8, [(8, RowClass.FINAL, math.inf)], 10_000, 1.0)
@example(RowClass.BACKGROUND, 128, [(32, RowClass.FINAL, 0.05), (8, RowClass.INTERIM, 0.01)], 10_000, 2.0)
def test_nothing_starves_under_overload(
    victim_class: RowClass,
    victim_tokens: int,
    attack: list[tuple[int, RowClass, float]],
    attackers: int,
    rate_factor: float,
) -> None:
    """A row without a deadline starts once what arrived before it plus one handicap is worked off, whatever follows."""
    policy = make_policy(max_queued_rows=16)
    if victim_class is RowClass.SHADOW:
        victim_class = RowClass.BACKGROUND  # nobody waits for a shadow, and nothing is promised to it
    victim = make_row(victim_tokens, victim_class, owner="victim")
    arrivals: list[tuple[float, Row]] = [(1e-6, victim)]  # when the first attacker has just taken the slot
    # More than one slot can run even in full batches, for longer than the victim may wait.
    bound_s = BatchingSettings().handicap_s(victim_class) + 17 * LONGEST_S
    at_s, pattern = 0.0, itertools.cycle(attack)
    while at_s < 1.2 * bound_s:
        tokens, row_class, slack_s = next(pattern)
        # Of many calls: one call's own rows wait behind each other anyway.
        owner = f"attacker{len(arrivals) % attackers}"
        arrivals.append((at_s, make_row(tokens, row_class, owner=owner, deadline_s=at_s + slack_s)))
        at_s += A_S * tokens / rate_factor
    simulation = Simulation(policy, 1)
    simulation.run(arrivals)
    # At most a full queue is ahead at the end of the handicap; each batch has its most urgent row at least.
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
