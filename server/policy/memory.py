"""What a matcher remembers of one call: plain structs, so that another process can take the call over.

What there are many of is packed without the names of its fields: they were nearly a third of what a call remembers.
"""

from __future__ import annotations

import msgspec

from server.policy.conditions import View
from server.wire.ids import Speaker
from server.wire.publication import Evidence


class Track(msgspec.Struct, array_like=True, gc=False):
    """How one moment that held, or may yet, fares on one utterance; nothing for the collector."""

    revision: int = 0
    streak: int = 0
    occurrence: int = 0
    is_decided: bool = False


class Turn(msgspec.Struct, array_like=True, gc=False):
    """One utterance under observation; `views` ascend by revision, a final is alone.

    Once `is_judged` every moment is decided on the final, and there is no view any more. Of these a call keeps many:
    they are nothing for the collector, and what they are left with is not either, tuples and not lists.
    """

    utterance_id: str
    speaker: Speaker
    start_ms: int
    end_ms: int
    views: tuple[View, ...] = ()
    tracks: dict[str, Track] = {}
    counted: tuple[str, ...] = ()
    is_judged: bool = False


class Occurrence(msgspec.Struct, array_like=True):
    """A moment that happened and was not withdrawn. `cause` are the occurrences it hangs on."""

    number: int
    utterance_id: str
    at_ms: int
    evidence: Evidence | None
    strength: float = 1.0
    is_open: bool = False
    cause: list[tuple[str, int]] = []


class Window(msgspec.Struct, array_like=True):
    """A stretch in which something has to be said."""

    since_ms: int
    deadline_ms: int
    evidence: Evidence | None = None
    anchor: tuple[str, int] | None = None
    said_by: list[str] = []


class Run(msgspec.Struct, array_like=True):
    """Turns in a row on which a leaf held: up to `turn_id`, and before it."""

    turn_id: str = ""
    length: int = 0
    before: int = 0


class MatcherState(msgspec.Struct):
    """All a matcher remembers."""

    turns: dict[str, Turn] = {}
    counts: dict[str, int] = {}
    occurrences: dict[str, list[Occurrence]] = {}
    windows: dict[str, Window] = {}
    runs: dict[str, Run] = {}
