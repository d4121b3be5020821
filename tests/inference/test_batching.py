"""The batching policy alone, decision by decision."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.batching import Batch
from inference.plan import Bucket
from inference.request import RowClass
from inference.row import Refusal, Row
from inference.runner import halves
from tests.inference.queueing import A_S, B_S, OTHER, make_policy, make_row, pop_rows

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
    long = make_row(28)  # a bucket would hold all four
    for row in (short[0], long, *short[1:]):
        policy.admit(row, 0.0)
    first = policy.pop(0.0).batch
    assert first is not None
    assert set(first.rows) == set(short)
    assert first.shape == Bucket(3, 10)
    assert first.tokens == 27
    policy.finished(first, None)
    assert pop_rows(policy) == [long]


def test_a_batch_grows_on_the_side_that_adds_less_padding_and_lists_its_rows_by_urgency() -> None:
    policy = make_policy(max_batch_rows=3)
    leader, shorter, longer, longest = make_row(16), make_row(4), make_row(18), make_row(20)
    for row in (leader, shorter, longest, longer):
        policy.admit(row, 0.0)
    assert pop_rows(policy) == [leader, longest, longer]
    assert pop_rows(policy) == [shorter]


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


def test_background_rows_yield_longest() -> None:
    policy = make_policy(interim_handicap_s=0.05, background_handicap_s=0.5, max_batch_rows=1)
    policy.admit(background := make_row(8, RowClass.BACKGROUND), 0.0)
    policy.admit(interim := make_row(8, RowClass.INTERIM, arrived_s=0.44), 0.44)
    assert pop_rows(policy, 0.44) == [interim]
    policy.admit(make_row(8, RowClass.INTERIM, arrived_s=0.46), 0.46)
    assert pop_rows(policy, 0.46) == [background]


def test_a_row_of_a_lower_class_that_has_waited_out_its_handicap_joins_a_final() -> None:
    policy = make_policy(interim_handicap_s=0.05)
    policy.admit(interim := make_row(8, RowClass.INTERIM), 0.0)
    policy.admit(final := make_row(8, arrived_s=0.04), 0.04)
    assert pop_rows(policy, 0.06) == [final, interim]


def test_a_deadline_never_puts_a_row_before_its_arrival() -> None:
    policy = make_policy()
    policy.admit(row := make_row(16, arrived_s=1.0, deadline_s=1.001), 1.0)
    assert row.order == 1.0


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


def test_the_most_urgent_row_leads_whatever_its_lane() -> None:
    policy = make_policy()
    policy.admit(interim := make_row(row_class=RowClass.INTERIM), 0.0)
    policy.admit(final := make_row(lane=OTHER), 0.0)
    assert pop_rows(policy) == [final]
    assert pop_rows(policy) == [interim]


def test_a_lane_with_rows_is_not_forgotten() -> None:
    policy = make_policy()
    policy.admit(make_row(lane=OTHER), 0.0)
    with pytest.raises(ValueError, match="still queued"):
        policy.close_lane(OTHER)
    policy.pop(0.0)
    policy.close_lane(OTHER)


def test_a_batch_teaches_what_its_padded_tokens_took() -> None:
    policy = make_policy(exact=False)
    for _ in range(20):
        policy.admit(make_row(20), 0.0)
        batch = policy.pop(0.0).batch
        assert batch is not None
        before_s = batch.predicted_s
        policy.finished(batch, before_s)
    policy.admit(make_row(20), 0.0)
    batch = policy.pop(0.0).batch
    assert batch is not None
    assert batch.predicted_s == pytest.approx(before_s)
    policy.finished(batch, None)  # what failed teaches nothing


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


def test_a_configured_wait_ends_in_time_for_the_nearest_deadline() -> None:
    policy = make_policy(slots=2, max_queue_delay_s=1.0)
    policy.admit(make_row(), 0.0)
    policy.pop(0.0)
    row = make_row(arrived_s=0.1, deadline_s=0.1 + A_S * 8 + 1.4 * B_S)
    policy.admit(row, 0.1)
    pop = policy.pop(0.1)
    assert pop.batch is None
    assert pop.wake_s == pytest.approx(0.1 + 0.4 * B_S)


def test_a_full_batch_waits_for_no_company() -> None:
    policy = make_policy(slots=2, max_queue_delay_s=1.0, max_batch_rows=4)
    policy.admit(make_row(), 0.0)
    policy.pop(0.0)
    rows = [make_row() for _ in range(4)]
    for row in rows:
        policy.admit(row, 0.0)
    assert pop_rows(policy) == rows


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
        policy.admit(make_row(16, RowClass.BACKGROUND, owner=""), 0.0)
    assert policy.admit(make_row(16, deadline_s=0.01), 0.0).refusal is None
    assert policy.admit(make_row(16, RowClass.BACKGROUND, owner="", deadline_s=0.01), 0.0).refusal is Refusal.HOPELESS


def test_what_runs_counts_for_what_can_be_met() -> None:
    policy = make_policy()
    for _ in range(17):
        policy.admit(make_row(16, owner=""), 0.0)
    batch = policy.pop(0.0).batch
    assert batch is not None
    assert policy.queued == 1
    # The batch that runs, the row left behind at its share of a full batch, and the new row.
    ready_s = batch.predicted_s + (A_S * 16 + B_S * 16 / 256) + (A_S * 16 + B_S)
    assert policy.admit(make_row(16, owner="", deadline_s=0.99 * ready_s), 0.0).refusal is Refusal.HOPELESS
    assert policy.admit(make_row(16, owner="", deadline_s=1.01 * ready_s), 0.0).refusal is None


def test_a_batch_that_has_ended_is_not_counted_any_more() -> None:
    policy = make_policy(slots=2, max_batch_rows=1)

    def started(tokens: int) -> Batch:
        policy.admit(make_row(tokens, owner=""), 0.0)
        batch = policy.pop(0.0).batch
        assert batch is not None
        return batch

    ended = started(100)
    started(8)
    policy.finished(ended, None)
    started(100)
    policy.admit(make_row(8, owner=""), 0.0)
    # The short one frees a slot soon enough for a second row of its length behind it.
    assert policy.admit(make_row(8, owner="", deadline_s=0.006), 0.0).refusal is None


def test_a_flood_that_is_over_makes_nothing_hopeless() -> None:
    policy = make_policy(max_queued_rows=400)
    for _ in range(99):
        policy.admit(make_row(16, owner="flood"), 0.0)
    assert policy.admit(make_row(16, owner="flood", deadline_s=0.02), 0.0).refusal is Refusal.HOPELESS
    while pop_rows(policy):
        pass
    policy.admit(make_row(16, owner="flood"), 1.0)
    assert policy.admit(make_row(16, owner="flood", deadline_s=1.02), 1.0).refusal is None


def test_a_call_is_never_ahead_of_its_own_earlier_rows() -> None:
    policy = make_policy(max_batch_rows=3)
    first = [make_row(16) for _ in range(6)]
    for row in first:
        policy.admit(row, 0.0)
    assert len(pop_rows(policy)) == 3
    policy.admit(later := make_row(16, arrived_s=1e-6), 1e-6)
    assert later.order >= max(row.order for row in first)


def test_a_call_whose_rows_have_run_begins_anew() -> None:
    policy = make_policy()
    policy.admit(make_row(100), 0.0)
    policy.pop(0.0)
    policy.admit(make_row(8, arrived_s=1.0), 1.0)
    policy.admit(second := make_row(8, arrived_s=1.0), 1.0)
    assert second.order == pytest.approx(1.0 + A_S * 8 + B_S)  # behind the first alone


def test_a_call_that_has_its_share_queued_may_still_revise() -> None:
    policy = make_policy(max_queued_rows=32)  # a call's share is never less than 16
    for revision in range(16):
        policy.admit(make_row(key=f"u{revision}", revision=1), 0.0)
    assert policy.admit(make_row(key="another"), 0.0).refusal is Refusal.FLOOD
    assert policy.admit(make_row(key="u3", revision=2), 0.0).refusal is None


def test_a_flood_that_is_revised_leaves_room_at_the_door_as_well() -> None:
    policy = make_policy(max_queued_rows=400)
    for revision in (1, 2):
        for i in range(99):
            assert policy.admit(make_row(16, owner="flood", key=f"u{i}", revision=revision), 0.0).refusal is None
    assert policy.admit(make_row(16, owner="quiet", deadline_s=0.01), 0.0).refusal is None


def test_calls_that_come_and_go_do_not_hide_a_flood() -> None:
    policy = make_policy(max_queued_rows=100)
    for _ in range(25):
        policy.admit(make_row(owner="flood"), 0.0)
    for i in range(2000):
        assert policy.admit(make_row(owner=f"call{i}"), 0.0).refusal is None
        policy.cancel(f"call{i}")
    assert policy.admit(make_row(owner="flood"), 0.0).refusal is Refusal.FLOOD


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


def test_a_final_takes_over_the_time_that_its_interim_has_waited() -> None:
    policy = make_policy(max_batch_rows=1)
    policy.admit(make_row(8, RowClass.INTERIM, key="u1", revision=1), 0.0)
    policy.admit(other := make_row(8, owner="other", arrived_s=0.01), 0.01)
    policy.admit(final := make_row(8, key="u1", revision=2, arrived_s=0.02), 0.02)
    assert pop_rows(policy, 0.02) == [final]
    assert pop_rows(policy, 0.02) == [other]


def test_the_same_revision_asked_twice_is_answered_twice_and_replaced_once() -> None:
    policy = make_policy(max_batch_rows=1)
    one, two = make_row(key="u1", revision=1), make_row(key="u1", revision=1)
    assert policy.admit(one, 0.0).superseded is policy.admit(two, 0.0).superseded is None
    assert policy.queued == 2
    assert pop_rows(policy) == [one]
    assert policy.admit(newer := make_row(key="u1", revision=2), 0.0).superseded is two
    assert pop_rows(policy) == [newer]


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
    assert policy.queued == 1
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


def test_a_row_that_cannot_be_ready_in_time_is_dropped_while_others_wait() -> None:
    policy = make_policy()
    hopeless = make_row(16, deadline_s=0.5)
    fine = make_row(16)
    policy.admit(hopeless, 0.0)
    policy.admit(fine, 0.0)
    pop = policy.pop(0.5 - B_S)  # its deadline is not over yet, but a batch of it would be
    assert pop.late == (hopeless,)
    assert pop.batch is not None
    assert pop.batch.rows == (fine,)


def test_a_row_that_cannot_be_ready_in_time_is_no_company() -> None:
    policy = make_policy(interim_handicap_s=0.5)
    policy.admit(leader := make_row(16), 0.0)
    policy.admit(hopeless := make_row(16, RowClass.INTERIM, deadline_s=0.6), 0.0)
    policy.admit(make_row(16), 0.0)
    pop = policy.pop(0.6 - B_S)
    assert pop.batch is not None
    assert leader in pop.batch.rows
    assert hopeless not in pop.batch.rows
    assert policy.pop(0.6).late == (hopeless,)


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
