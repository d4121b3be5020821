"""What is remembered of a model's versions, and how it changes. Pure; the file is written by `inference.life.file`.

introduced ─▶ candidate (shadow, canary) ─promoted─▶ serving ─rolled back─▶ set aside, the previous serves
                    └────────── set aside ◀── refused, rolled back, passed over
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from inference.model_config import VersionPolicy

Fate = Literal["refused", "rolled_back", "passed_over"]
Stage = Literal["", "shadow", "canary"]


class SetAside(msgspec.Struct, frozen=True):
    """A version that is not to be served until its files change or somebody promotes it.

    Attributes:
        fate: How it came to that.
        reason: In a sentence.
        fingerprint: Of its files at the time.
        at_s: When, seconds since the Unix epoch.
    """

    fate: Fate
    reason: str
    fingerprint: str
    at_s: float


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """The versions of one model.

    Attributes:
        serving: Version that answers; None before the first start.
        previous: The one before, to which a rollback returns.
        candidate: Version on trial.
        stage: What the candidate does.
        ratio: Share of the rows (shadow) or calls (canary) that it gets.
        set_aside: Versions not to be served, by number.
        probation_until_s: Until when the one that serves is judged beside the previous, seconds since the Unix epoch.
    """

    serving: int | None = None
    previous: int | None = None
    candidate: int | None = None
    stage: Stage = ""
    ratio: float = 0.0
    set_aside: dict[int, SetAside] = {}
    probation_until_s: float = 0.0

    @property
    def without_trial(self) -> Record:
        """The same with no version on trial."""
        return msgspec.structs.replace(self, candidate=None, stage="", ratio=0.0)


class Move(msgspec.Struct, frozen=True):
    """What a process does to follow another.

    Attributes:
        kind: Let a version serve, return to it, put it on trial, or give up the one on trial.
        version: Which.
        reason: Why what serves or is on trial is given up.
    """

    kind: Literal["serve", "go_back", "begin", "give_up"]
    version: int
    reason: str = ""


def next_version(record: Record, policy: VersionPolicy, seen: Mapping[int, str]) -> int | None:
    """Return the version that should be taken in, None if all is as it should be.

    Args:
        record: What is so.
        policy: Of the model's config.
        seen: Settled versions in the folder, with the fingerprints of their files.
    """
    able = dict(seen) | ({record.serving: ""} if record.serving is not None else {})
    able = {number: known for number, known in able.items() if not is_set_aside(record, number, known)}
    chosen = policy.choose(able)
    if not chosen or chosen[0] in (record.serving, record.candidate):
        return None
    return chosen[0]


def is_set_aside(record: Record, number: int, fingerprint: str) -> bool:
    """Whether a version is to be left alone: it was set aside, and its files are what they were."""
    known = record.set_aside.get(number)
    return known is not None and known.fingerprint == fingerprint


def introduced(record: Record, number: int, stage: Stage, ratio: float) -> Record:
    """Put a version on trial."""
    aside = {known: why for known, why in record.set_aside.items() if known != number}
    return Record(record.serving, record.previous, number, stage, ratio, aside)


def promoted(record: Record, number: int, until_s: float = 0.0) -> Record:
    """Let a version answer all calls, on probation until then."""
    aside = {known: why for known, why in record.set_aside.items() if known != number}
    previous = record.serving if record.serving != number else record.previous
    return Record(serving=number, previous=previous, set_aside=aside, probation_until_s=until_s)


def passed_over(record: Record, number: int, why: SetAside) -> Record:
    """Leave a version alone that the version policy would serve; a rollback may still return to it."""
    return msgspec.structs.replace(record, set_aside=record.set_aside | {number: why})


def withdrawn(record: Record, number: int, why: SetAside) -> Record:
    """Set a version aside; where it served, the previous one does again."""
    aside = record.set_aside | {number: why}
    if number == record.previous:
        record = msgspec.structs.replace(record, previous=None)
    if number == record.candidate:
        return msgspec.structs.replace(record.without_trial, set_aside=aside)
    if number == record.serving and record.previous is not None:
        aside = {known: why for known, why in aside.items() if known != record.previous}
        return Record(record.previous, None, record.candidate, record.stage, record.ratio, aside)
    return msgspec.structs.replace(record, set_aside=aside)


def next_move(record: Record, theirs: Record) -> Move | None:
    """Return the next thing to do to follow another process, None where all that differs is what was set aside.

    Args:
        record: What is so here.
        theirs: What is so there.
    """
    if theirs.serving is not None and theirs.serving != record.serving:
        why = theirs.set_aside.get(record.serving) if record.serving is not None else None
        if why is not None and why.fate != "passed_over" and record.previous == theirs.serving:
            return Move("go_back", theirs.serving, why.reason)
        return Move("serve", theirs.serving)
    if (record.candidate, record.stage, record.ratio) == (theirs.candidate, theirs.stage, theirs.ratio):
        return None
    if theirs.candidate is not None:
        return Move("begin", theirs.candidate)
    assert record.candidate is not None
    why = theirs.set_aside.get(record.candidate)
    return Move("give_up", record.candidate, why.reason if why is not None else "")


def needed(
    record: Record, policy: VersionPolicy, loaded: Collection[int], pins: Collection[int], *, is_on_probation: bool
) -> frozenset[int]:
    """Return the loaded versions that something may still ask for; the others can be unloaded."""
    keep = {record.serving, record.candidate, *pins}
    if is_on_probation:
        keep.add(record.previous)
    able = {number: None for number in loaded if number not in record.set_aside}
    keep.update(policy.choose(able))
    return frozenset(number for number in loaded if number in keep)
