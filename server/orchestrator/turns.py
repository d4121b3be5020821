"""Which turn was before: what the last final of a call handed on, for the request that comes next. Pure.

    final ──said──▶ (waiting) ──handed_on──▶ Carry ──before──▶ the next utterance's request

Interims hand nothing on. A final that is not answered yet counts as a turn without numbers: nobody waits for it, and
what was said two turns ago is not what was said before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np

from inference.request import Carry
from server.wire.utterance import Utterance

MAX_CALLS = 20_000
"""Calls remembered; of more, those that were silent longest are taken for calls at their first turn."""

KEPT_TURNS = 3
"""Both sides may speak at once, and each still has a turn that began before it."""


@dataclass(slots=True)
class _Turn:
    """One final: whose it is, where it begins on the audio clock, and what it hands on once that is known."""

    utterance_id: str
    start_ms: int
    carry: Carry | None = None


class TurnState(msgspec.Struct, frozen=True, array_like=True):
    """One final, for another process to go on after; `numbers` little endian float32, empty while not answered."""

    utterance_id: str
    start_ms: int
    model: str = ""
    version: int = 0
    numbers: bytes = b""


class Turns:
    """The last finals of every call. One thread."""

    def __init__(self, max_calls: int = MAX_CALLS) -> None:
        self._max_calls = max_calls
        self._calls: OrderedDict[str, list[_Turn]] = OrderedDict()

    def before(self, owner: str, utterance: Utterance) -> Carry | None:
        """Return what the turn before this utterance handed on; None where there was none, or it is still waited for.

        Args:
            owner: The call.
            utterance: Interim or final; its own earlier final is not the turn before it.
        """
        # Not simply the last one: a gap that is filled in later was said before turns that are known already.
        earlier = [
            turn
            for turn in self._calls.get(owner, ())
            if turn.utterance_id != utterance.utterance_id and turn.start_ms <= utterance.start_ms
        ]
        return earlier[-1].carry if earlier else None

    def said(self, owner: str, utterance: Utterance) -> None:
        """Note a final that is to be answered."""
        turns = self._calls.setdefault(owner, [])
        self._calls.move_to_end(owner)
        if len(self._calls) > self._max_calls:
            self._calls.popitem(last=False)
        turns[:] = [turn for turn in turns if turn.utterance_id != utterance.utterance_id]
        turns.append(_Turn(utterance.utterance_id, utterance.start_ms))
        turns.sort(key=lambda turn: turn.start_ms)
        del turns[:-KEPT_TURNS]

    def handed_on(self, owner: str, utterance: Utterance, carry: Carry) -> None:
        """Note what a final hands on; one that is no longer among the last is passed over."""
        for turn in self._calls.get(owner, ()):
            if turn.utterance_id == utterance.utterance_id:
                turn.carry = carry

    def state(self, owner: str) -> tuple[TurnState, ...]:
        """A call's, for another process; nothing of it is words."""
        return tuple(_packed(turn) for turn in self._calls.get(owner, ()))

    def restore(self, owner: str, states: Iterable[TurnState]) -> None:
        """Go on after turns of another process."""
        self._calls[owner] = [_unpacked(state) for state in states][-KEPT_TURNS:]

    def forget(self, owner: str) -> None:
        """Drop a call that is over."""
        self._calls.pop(owner, None)


def _packed(turn: _Turn) -> TurnState:
    if turn.carry is None:
        return TurnState(turn.utterance_id, turn.start_ms)
    carry = turn.carry
    return TurnState(
        turn.utterance_id, turn.start_ms, carry.model, carry.version, carry.numbers.astype("<f4").tobytes()
    )


def _unpacked(state: TurnState) -> _Turn:
    if not state.numbers:
        return _Turn(state.utterance_id, state.start_ms)
    numbers = np.frombuffer(state.numbers, "<f4").astype(np.float32)
    return _Turn(state.utterance_id, state.start_ms, Carry(state.model, state.version, numbers))
