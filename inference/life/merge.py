"""Two decisions about one model, made at once by two processes, as one record. Pure.

    what both knew ─┬─▶ ours ────┐
                    └─▶ theirs ──┴─▶ merged: what either set aside stays so, and does not serve

Of two changes of the same thing the later one counts, but a version that the other process found to be bad is no
choice: a promotion that knew nothing of a rollback does not undo it.
"""

from __future__ import annotations

from collections.abc import Mapping

from inference.life.record import Record, SetAside

_HARM = {"passed_over": 0, "refused": 1, "rolled_back": 2}
"""What was bad in traffic serves last, even before what one process could not load."""


def merged(known: Record, ours: Record, theirs: Record) -> Record:
    """Return one record for both decisions.

    Args:
        known: What both started from.
        ours: The later decision.
        theirs: The earlier one.
    """
    aside = _set_aside(known.set_aside, ours.set_aside, theirs.set_aside)

    def harm(version: int | None) -> int:
        return _HARM[aside[version].fate] if version is not None and version in aside else 0

    def order(side: Record) -> tuple[int, bool, bool]:
        is_changed = (side.serving, side.previous) != (known.serving, known.previous)
        is_given_up = known.serving in side.set_aside  # which says what is bad, not what else should serve
        return harm(side.serving), not is_changed, is_given_up

    serves, other = sorted((ours, theirs), key=order)
    previous = serves.previous
    if harm(previous):
        previous = other.serving if other.serving != serves.serving and not harm(other.serving) else None
    record = Record(serves.serving, previous, set_aside=aside, probation_until_s=serves.probation_until_s)

    def trial(side: Record) -> tuple[object, ...]:
        return side.candidate, side.stage, side.ratio

    tries = ours if trial(ours) != trial(known) else theirs
    if tries.candidate in (None, record.serving) or harm(tries.candidate):
        return record
    return Record(record.serving, previous, tries.candidate, tries.stage, tries.ratio, aside)


def _set_aside(
    known: Mapping[int, SetAside], ours: Mapping[int, SetAside], theirs: Mapping[int, SetAside]
) -> dict[int, SetAside]:
    aside = {}
    for version in sorted({*ours, *theirs}):
        before, here, there = known.get(version), ours.get(version), theirs.get(version)
        if here == before:
            why = there
        elif there == before:
            why = here
        else:
            why = max((one for one in (here, there) if one is not None), key=lambda one: (_HARM[one.fate], one.at_s))
        if why is not None:
            aside[version] = why
    return aside
