"""A channel on Redis as its writer knows it: enough to go on alone, and to put it back. Pure but for its lock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from server.log.channel import encoded, new_epoch
from server.log.contract import ChannelKey, Entry, Event, Position, Recovery
from server.log.redis_keys import moved
from server.log.snapshot import States
from server.wire.clock import wall_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisLimits:
    """What the log may hold, and for how long.

    Attributes:
        max_stream_entries: Entries of one channel; older ones are known by the snapshot alone.
        max_recovery_entries: Longest tail a reader is given; one further behind gets the snapshot.
        max_local_entries: Recent entries of a channel that a process keeps for the time Redis is away.
        retention_s: A channel that was not written to for so long is forgotten.
        max_memory_share: Of Redis's `maxmemory`; beyond, the channels longest unused are forgotten.
        idle_s: A channel that was not written to for so long leaves this process's memory.
        sweep_s: How often the last two are looked after.
    """

    max_stream_entries: int = 20_000
    max_recovery_entries: int = 20_000
    max_local_entries: int = 1_000
    retention_s: float = 72 * 3600.0
    max_memory_share: float = 0.8
    idle_s: float = 600.0
    sweep_s: float = 60.0


@dataclass(slots=True)
class Held:
    """What this process knows of a channel that it writes.

    Attributes:
        epoch: Empty until it was written or loaded.
        last: Offset of the newest entry known.
        floor: Offset after which `tail` is complete.
        states: Of a call that this process owns, all; else what this process wrote.
        is_detached: It goes on in this process alone.
        is_over: This process owns it no more; it is kept until Redis has taken what it does not have.
        owner_fence: Fence of the lease, empty without one.
        memory: What its owner has to know to go on elsewhere, if it said so in this process.
    """

    key: ChannelKey
    epoch: str = ""
    last: int = 0
    floor: int = 0
    states: States = field(default_factory=States)
    tail: deque[Entry] = field(default_factory=deque)
    is_detached: bool = False
    is_over: bool = False
    owner_fence: str = ""
    touched_s: float = 0.0
    memory: bytes = b""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def position(self) -> Position:
        """Where it stands, as far as this process knows."""
        return Position(self.epoch, self.last)

    def take(self, entries: Sequence[Entry], max_tail: int) -> None:
        """These were appended."""
        self.states.fold(entries)
        self.tail.extend(entries)
        self.last = entries[-1].position.offset
        while len(self.tail) > max_tail:
            self.floor = self.tail.popleft().position.offset

    def renew(self) -> None:
        """Go on in a new epoch: the states are its first entries."""
        epoch = new_epoch()
        entries = [moved(entry, Position(epoch, n)) for n, entry in enumerate(self.states.entries(), 1)]
        self.epoch, self.last, self.floor = epoch, len(entries), 0
        self.states, self.tail = States(entries), deque(entries)

    def encoded(self, events: Sequence[Event], now_s: float) -> tuple[Entry, ...]:
        """These events as the next entries; nothing is taken yet."""
        return encoded(self.key.channel, Position(self.epoch, self.last), events, now_s, wall_ms())

    def recovery(self, after: Position | None) -> Recovery:
        """What a reader gets while Redis is away: the tail if it is held, else the snapshot."""
        if after is not None and after.epoch == self.epoch and self.floor <= after.offset <= self.last:
            tail = tuple(entry for entry in self.tail if entry.position.offset > after.offset)
            return Recovery(position=self.position, recovered=True, snapshot=(), tail=tail)
        return Recovery(position=self.position, recovered=False, snapshot=self.states.entries(), tail=())
