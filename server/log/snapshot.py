"""Compaction: of every state only its newest entry. A reader that folds a snapshot stands where one stands that folded
the whole log. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from server.log.contract import Entry
from server.wire.publication import Action, CallState, Payload


class States:
    """The newest entry of every (kind, key), in the order of their offsets; states that are over are gone."""

    __slots__ = ("_newest",)

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._newest: dict[tuple[str, str], Entry] = {}
        self.fold(entries)

    def fold(self, entries: Iterable[Entry]) -> None:
        """Take further entries in, ascending and after those before."""
        for entry in entries:
            state = (entry.kind, entry.key)
            self._newest.pop(state, None)  # so that the new one stands at its own place and not at the old one's
            if not entry.is_over:
                self._newest[state] = entry

    def entries(self) -> tuple[Entry, ...]:
        """Ascending offsets."""
        return tuple(self._newest.values())

    def __len__(self) -> int:
        return len(self._newest)


def compacted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The snapshot of a log: ascending offsets in, ascending offsets out."""
    return States(entries).entries()


def ends_state(channel: str, payload: Payload) -> bool:
    """Whether this payload ends the state it is.

    An action is over when it expired or was retracted. A call that ended is over on its agent's channel, which would
    otherwise grow by every call that agent ever had; on its own channel the end is what a late reader has to see.
    """
    match payload:
        case Action(state=state):
            return state in ("expire", "retract")
        case CallState(state="ended"):
            return channel.startswith("agent:")
    return False
