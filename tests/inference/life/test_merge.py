from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.life.merge import merged
from inference.life.record import Record, SetAside

BACK = SetAside("rolled_back", "fails", "b", 1.0)
REFUSED = SetAside("refused", "cannot be loaded", "c", 2.0)
OVER = SetAside("passed_over", "version 1 was promoted by command", "b", 3.0)


@pytest.mark.parametrize(
    ("known", "one", "other", "expected"),
    [
        # A rollback here, a refusal there.
        (
            Record(2, 1),
            Record(1, set_aside={2: BACK}),
            Record(2, 1, set_aside={3: REFUSED}),
            Record(1, set_aside={2: BACK, 3: REFUSED}),
        ),
        # A rollback here, a promotion of what is rolled back there.
        (
            Record(1, candidate=2, stage="canary", ratio=0.1),
            Record(1, set_aside={2: BACK}),
            Record(2, 1),
            Record(1, set_aside={2: BACK}),
        ),
        # A rollback here, the promotion of a third one there: it returns to what serves after the rollback.
        (Record(2, 1), Record(1, set_aside={2: BACK}), Record(3, 2), Record(3, 1, set_aside={2: BACK})),
        # A promotion here, a refusal there: the probation is the promotion's.
        (
            Record(1),
            Record(2, 1, probation_until_s=60.0),
            Record(1, set_aside={3: REFUSED}),
            Record(2, 1, set_aside={3: REFUSED}, probation_until_s=60.0),
        ),
        # A rollback here, a trial of a third one there.
        (
            Record(2, 1),
            Record(1, set_aside={2: BACK}),
            Record(2, 1, candidate=3, stage="shadow", ratio=0.5),
            Record(1, None, 3, "shadow", 0.5, {2: BACK}),
        ),
        # Both find it bad; the one who saw it in traffic says why.
        (
            Record(1, candidate=2, stage="shadow", ratio=0.5),
            Record(1, set_aside={2: BACK}),
            Record(1, set_aside={2: OVER}),
            Record(1, set_aside={2: BACK}),
        ),
        # What one tries once more while the other has nothing new about it is tried.
        (
            Record(1, set_aside={2: BACK}),
            Record(2, 1),
            Record(1, set_aside={2: BACK, 3: REFUSED}),
            Record(2, 1, set_aside={3: REFUSED}),
        ),
        # Where all are bad, the one that was never seen in traffic.
        (Record(2, 1), Record(1, set_aside={2: BACK}), Record(2, set_aside={1: REFUSED}), None),
    ],
)
def test_neither_decision_is_lost_whoever_comes_first(
    known: Record, one: Record, other: Record, expected: Record | None
) -> None:
    expected = expected or Record(1, set_aside={1: REFUSED, 2: BACK})
    assert merged(known, one, other) == expected
    assert merged(known, other, one) == expected


def test_of_two_promotions_the_later_one_counts() -> None:
    assert merged(Record(1), Record(2, 1), Record(3, 1)) == Record(2, 1)
    assert merged(Record(1), Record(3, 1), Record(2, 1)) == Record(3, 1)
    trial = Record(1, candidate=2, stage="canary", ratio=0.1)
    more = Record(1, candidate=2, stage="canary", ratio=0.5)
    assert merged(trial, more, Record(1, candidate=2, stage="shadow", ratio=0.2)) == more


_versions = st.integers(1, 4)
_asides = st.dictionaries(_versions, st.sampled_from([BACK, REFUSED, OVER]), max_size=3)


@st.composite
def _records(draw: st.DrawFn) -> Record:
    """Any record that the changes of `record` can lead to: what serves or is tried is not set aside."""
    serving, previous, candidate = draw(st.permutations([1, 2, 3, 4]))[:3]
    previous = draw(st.sampled_from([None, previous]))
    aside = {n: why for n, why in draw(_asides).items() if n not in (serving, candidate)}
    if previous in aside and aside[previous].fate != "passed_over":
        previous = None
    if draw(st.booleans()):
        return Record(serving, previous, set_aside=aside)
    return Record(serving, previous, candidate, "canary", 0.1, aside)


@given(_records(), _records(), _records())
def test_what_either_found_bad_does_not_serve_and_is_not_forgotten(known: Record, ours: Record, theirs: Record) -> None:
    record = merged(known, ours, theirs)
    bad = {number for number, why in record.set_aside.items() if why.fate != "passed_over"}
    for number, side in itertools.product(range(1, 5), (ours, theirs)):
        if number in side.set_aside and side.set_aside[number] != known.set_aside.get(number):
            assert number in record.set_aside
    assert {record.previous, record.candidate}.isdisjoint(bad)
    assert record.serving not in (record.previous, record.candidate)
    if not {ours.serving, theirs.serving} <= bad:
        assert record.serving not in bad
    assert merged(known, ours, known) == ours
    assert merged(known, known, theirs) == theirs
