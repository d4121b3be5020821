"""One channel in memory: its states, compacted, and behind them its recent entries, complete. Pure.

    offsets   1 … floor │ floor+1 … │ tail[0] … last
              compacted │ complete  │ complete
              only      │ on disk   │ in memory

A reader whose position is at or after `floor` can be given everything after it; any other is told so and gets the
snapshot. `floor` is 0 unless the disk was away for so long that entries were let go unwritten.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from server.log.contract import ChannelKey, Entry, Event, Position
from server.log.frames import Contents, Outline, in_epoch
from server.log.snapshot import States, compacted, ends_state
from server.wire.clock import Stamps
from server.wire.codec import json_encoder
from server.wire.publication import Publication, Transcript, kind_of


def new_epoch() -> str:
    """A random name for one incarnation of a channel, 16 hexadecimal digits."""
    return secrets.token_hex(8)


def encoded(channel: str, after: Position, events: Sequence[Event], now_s: float, t8: float) -> tuple[Entry, ...]:
    """Events as the entries they are behind a position; the bytes that all readers get are made here and nowhere else.

    Args:
        channel: Where they are appended.
        after: The newest position before them.
        events: In order.
        now_s: Monotonic time of the append.
        t8: Its wall time, in ms.
    """
    epoch, offset = after.epoch, after.offset
    unstamped, stamps = None, Stamps()
    entries = []
    for event in events:
        offset += 1
        payload, kind = event.payload, kind_of(event.payload)
        if event.stamps is not unstamped:  # outputs of an utterance share theirs
            unstamped, stamps = event.stamps, msgspec.structs.replace(event.stamps, t8=t8)
        publication = Publication(
            ch=channel, ep=epoch, off=offset, kind=kind, t=stamps, d=payload, tp=event.traceparent
        )
        entries.append(
            Entry(
                position=Position(epoch, offset),
                kind=kind,
                key=payload.key(),
                is_interim=event.is_interim or (isinstance(payload, Transcript) and not payload.is_final),
                body=json_encoder.encode(publication),
                appended_s=now_s,
                is_over=ends_state(channel, payload),
            )
        )
    return tuple(entries)


@dataclass(slots=True)
class Channel:
    """State of one channel. The shell decides when to fold, write, evict.

    Attributes:
        key: The channel and its owner.
        epoch: This incarnation.
        last: Offset of the newest entry, 0 if there is none.
        floor: Offset after which every entry is held, in memory or on disk.
        queued: Offset up to which everything was handed to the writer.
        written: Offset up to which the disk has everything.
        is_opened: Its file begins with its epoch.
        is_complete: Its file says that nothing is missing, or will once the writer got to it.
        completed: Offset up to which its file says so.
        is_stored: It has a file; False where there is one that cannot be read, so that this life stays in memory.
        is_locked: Nobody has opened its file yet: `states` and `memory` know only what came since.
        states: Compacted entries before the tail.
        tail: Newest entries, offsets without holes.
        tail_bytes: Size of the tail's bodies.
        touched_s: Monotonic time of the last append or reading.
        memory: What its writer has to know to go on in another life.
        is_remembered: That was handed to the writer of the file.
    """

    key: ChannelKey
    epoch: str
    last: int = 0
    floor: int = 0
    queued: int = 0
    written: int = 0
    is_opened: bool = False
    is_complete: bool = False
    completed: int = 0
    is_stored: bool = True
    is_locked: bool = False
    states: States = field(default_factory=States)
    tail: list[Entry] = field(default_factory=list)
    tail_bytes: int = 0
    touched_s: float = 0.0
    memory: bytes = b""
    is_remembered: bool = True

    @property
    def position(self) -> Position:
        """Where the channel stands."""
        return Position(self.epoch, self.last)

    @property
    def tail_start(self) -> int:
        """Offset before the first entry in memory."""
        return self.last - len(self.tail)

    def append(self, events: Sequence[Event], now_s: float, t8: float) -> tuple[Entry, ...]:
        """Number, stamp and encode events."""
        entries = encoded(self.key.channel, Position(self.epoch, self.last), events, now_s, t8)
        self.last += len(entries)
        self.tail += entries
        self.tail_bytes += sum([len(entry.body) for entry in entries])
        self.touched_s = now_s
        self.is_complete = False
        return entries

    def after(self, offset: int) -> tuple[Entry, ...] | None:
        """Every entry after an offset, None if memory does not reach back that far."""
        if offset < self.tail_start:
            return None
        return tuple(self.tail[offset - self.tail_start :])

    def snapshot(self) -> tuple[Entry, ...]:
        """Newest entry of every state, ascending offsets."""
        return compacted((*self.states.entries(), *self.tail))

    def fold(self, max_tail_bytes: int) -> None:
        """Fold the tail's older part into the states once the tail is too large.

        What the disk does not have yet stays, unless the writer refuses more: then memory has to be bounded, and
        `floor` tells what is not complete any more.

        Args:
            max_tail_bytes: What the tail may hold; it is cut to half of that, so that folding is rare.
        """
        if self.tail_bytes <= max_tail_bytes:
            return
        upto = self.written if self.queued == self.last and self.is_stored else self.last
        num_folded = 0
        while num_folded < len(self.tail) and 2 * self.tail_bytes > max_tail_bytes:
            entry = self.tail[num_folded]
            if entry.position.offset > upto:
                break
            self.tail_bytes -= len(entry.body)
            num_folded += 1
        self.states.fold(self.tail[:num_folded])
        del self.tail[:num_folded]
        if self.tail_start > self.written:
            self.floor = self.tail_start

    @staticmethod
    def of_file(key: ChannelKey, outline: Outline) -> Channel:
        """A channel that goes on behind what its file holds, in a new epoch if a client may have seen more."""
        return Channel(
            key,
            outline.epoch if outline.is_certain else new_epoch(),
            last=outline.last,
            floor=outline.floor,
            queued=outline.last,
            written=outline.last,
            is_opened=outline.is_certain,
            is_complete=outline.is_certain,
            completed=outline.last if outline.is_certain else 0,
            is_locked=True,
        )

    def unlock(self, contents: Contents, max_tail_bytes: int) -> None:
        """Take in what its file held before the tail."""
        older = [entry for entry in contents.entries if entry.position.offset <= self.tail_start]
        known = older[-1].position.offset if older else 0
        newer = [entry for entry in self.states.entries() if entry.position.offset > known]
        tail = self.tail
        self.floor = max(self.floor, contents.floor)
        self.is_locked, self.states, self.tail, self.tail_bytes = False, States(), [], 0
        for entry in (*(in_epoch(entry, self.epoch) for entry in older), *newer, *tail):
            if entry.position.offset > self.floor:
                self.tail.append(entry)
                self.tail_bytes += len(entry.body)
            else:
                self.states.fold((entry,))
        self.memory = self.memory or contents.memory
        self.fold(max_tail_bytes)
