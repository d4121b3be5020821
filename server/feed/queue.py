"""What waits for one socket to become writable, and what a slow reader loses first. Pure.

Three lanes, popped in this order:

    control   answers, pings and errors: short, and worthless late
    replay    what a recovery owes: bytes shared with the log, not counted
    live      publications as they come

Half full, a superseded interim is dropped as soon as a newer revision of the same state is queued; above nine
tenths all interims are; a queue that still has no room is full, and its reader is cut with a code that invites it
back. Finals, actions, gaps and summaries are never dropped. Source: OPERATIONS d2.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.wire.feed import QUEUE_COALESCE_AT, QUEUE_DROP_INTERIMS_AT, QUEUE_MAX_BYTES

T = TypeVar("T")

StateKey = tuple[str, str, str]
"""Channel, kind and key: the state that a publication is."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """When a queue coalesces, drops and gives up.

    Attributes:
        max_bytes: Most that may wait, control and live lanes together.
        coalesce_at: Fill, 0 to 1, above which superseded interims are dropped.
        drop_interims_at: Fill above which all interims are dropped.
    """

    max_bytes: int = QUEUE_MAX_BYTES
    coalesce_at: float = QUEUE_COALESCE_AT
    drop_interims_at: float = QUEUE_DROP_INTERIMS_AT


@dataclass(slots=True)
class _Live(Generic[T]):
    frame: T
    size_bytes: int
    state: StateKey
    is_interim: bool


class SendQueue(Generic[T]):
    """The frames of one socket, counted in bytes.

    Not thread-safe; used from the event loop.

    Args:
        limits: When to coalesce, drop and give up.

    Attributes:
        num_coalesced: Superseded interims dropped so far.
        num_dropped: Other interims dropped so far.
        is_full: Something that must not be dropped found no room. Terminal: the reader must be cut.
    """

    def __init__(self, limits: QueueLimits | None = None) -> None:
        self._limits = limits or QueueLimits()
        self._coalesce_bytes = int(self._limits.max_bytes * self._limits.coalesce_at)
        self._drop_bytes = int(self._limits.max_bytes * self._limits.drop_interims_at)
        self._control: deque[tuple[T, int]] = deque()
        self._replay: deque[tuple[T, str]] = deque()
        self._live: OrderedDict[int, _Live[T]] = OrderedDict()
        self._interims: dict[StateKey, list[int]] = {}
        self._next_id = 0
        self._control_bytes = 0
        self._live_bytes = 0
        self._is_coalescing = False
        self.num_coalesced = 0
        self.num_dropped = 0
        self.is_full = False

    @property
    def size_bytes(self) -> int:
        """Bytes that count against the limit."""
        return self._control_bytes + self._live_bytes

    @property
    def is_empty(self) -> bool:
        """Nothing waits."""
        return not (self._live or self._replay or self._control)

    def __len__(self) -> int:
        """Frames that wait, in all lanes."""
        return len(self._control) + len(self._replay) + len(self._live)

    def push_control(self, frame: T, size_bytes: int) -> bool:
        """Queue an answer. False: there is no room and the reader must be cut."""
        if not self._has_room(size_bytes):
            return False
        self._control.append((frame, size_bytes))
        self._control_bytes += size_bytes
        return True

    def push_replay(self, channel: str, frames: Iterable[T]) -> None:
        """Queue what a recovery owes, ahead of anything live."""
        self._replay.extend((frame, channel) for frame in frames)

    def push(self, frame: T, size_bytes: int, state: StateKey, *, is_interim: bool) -> bool:
        """Queue a publication, or drop it by the rules. False: there is no room and the reader must be cut."""
        filled_bytes = self.size_bytes + size_bytes
        if filled_bytes > self._coalesce_bytes:
            if not self._is_coalescing:
                self._is_coalescing = True
                self._coalesce_all()
            self._drop_older(state)
            filled_bytes = self.size_bytes + size_bytes
        else:
            self._is_coalescing = False
        if filled_bytes > self._drop_bytes:
            self._drop_interims()
            if is_interim:
                self.num_dropped += 1
                return True
        if not self._has_room(size_bytes):
            return False
        if is_interim:
            self._interims.setdefault(state, []).append(self._next_id)
        self._live[self._next_id] = _Live(frame, size_bytes, state, is_interim)
        self._next_id += 1
        self._live_bytes += size_bytes
        return True

    def pop(self) -> T | None:
        """The next frame to send, None if nothing waits."""
        if self._control:
            frame, size_bytes = self._control.popleft()
            self._control_bytes -= size_bytes
            return frame
        if self._replay:
            return self._replay.popleft()[0]
        if self._live:
            number, item = self._live.popitem(last=False)
            self._live_bytes -= item.size_bytes
            if item.is_interim:
                self._forget_interim(item.state, number)
            return item.frame
        return None

    def drop_channel(self, channel: str) -> None:
        """Forget what waits of a channel that the reader left."""
        self._replay = deque(item for item in self._replay if item[1] != channel)
        for number in [number for number, item in self._live.items() if item.state[0] == channel]:
            self._remove(number)

    def clear(self) -> None:
        """Forget everything; the socket is closing."""
        self._control.clear()
        self._replay.clear()
        self._live.clear()
        self._interims.clear()
        self._control_bytes = self._live_bytes = 0

    def _has_room(self, size_bytes: int) -> bool:
        # A frame larger than the whole queue must still have a way out, so an empty queue takes anything.
        if self.size_bytes and self.size_bytes + size_bytes > self._limits.max_bytes:
            self.is_full = True
        return not self.is_full

    def _coalesce_all(self) -> None:
        for state in list(self._interims):
            for number in self._interims[state][:-1]:
                self._remove(number)
                self.num_coalesced += 1

    def _drop_older(self, state: StateKey) -> None:
        for number in list(self._interims.get(state, ())):
            self._remove(number)
            self.num_coalesced += 1

    def _drop_interims(self) -> None:
        for number in [number for numbers in self._interims.values() for number in numbers]:
            self._remove(number)
            self.num_dropped += 1

    def _remove(self, number: int) -> None:
        item = self._live.pop(number)
        self._live_bytes -= item.size_bytes
        if item.is_interim:
            self._forget_interim(item.state, number)

    def _forget_interim(self, state: StateKey, number: int) -> None:
        numbers = self._interims[state]
        numbers.remove(number)
        if not numbers:
            del self._interims[state]
