"""The event log contract: a log with positions per channel, embedded or on Redis Streams.

Channels are named inside the process with their tenant (`ChannelKey`), so that two tenants' `call:1` never meet;
clients only ever see the bare channel. Source: DESIGN 6, STYLE 1.9.

Events and entries are hidden from the garbage collector (`gc=False`): they hold no reference that could come back to
them, a busy log holds tens of thousands, and walking those stopped the loop for 80 ms at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from server.wire.clock import Stamps
from server.wire.ids import TenantId
from server.wire.publication import Kind, Payload


class ChannelKey(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """A channel and its owner."""

    tenant_id: TenantId
    channel: str


class Event(msgspec.Struct, frozen=True, gc=False):
    """A payload about to be appended, with its stamps (without `t8`, which the log adds) and trace context.

    `is_interim` says that a later revision will replace it, so that a slow reader may miss it.
    """

    payload: Payload
    stamps: Stamps
    traceparent: str = ""
    is_interim: bool = False


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in a channel's log; offset 0 is before the first publication."""

    epoch: str
    offset: int


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One appended publication, encoded once.

    Attributes:
        position: Where it stands.
        kind: Its kind.
        key: State that it is (`Payload.key`).
        is_interim: A transcript or annotation of an interim; may be dropped for a slow reader when superseded.
        body: The JSON publication, the very bytes every subscriber gets.
        appended_s: Monotonic time of the append.
        is_over: The state it is has ended (an action expired or retracted): with it, the state leaves the snapshots.
    """

    position: Position
    kind: Kind
    key: str
    is_interim: bool
    body: bytes
    appended_s: float
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class Recovery:
    """Answer to a reader that names a position.

    Attributes:
        position: Where the log stands now.
        recovered: `tail` is everything after the named position.
        snapshot: Without recovery: the latest entry of every state, ascending offsets; else empty.
        tail: Entries after the named position, or after the snapshot (then empty).
    """

    position: Position
    recovered: bool
    snapshot: tuple[Entry, ...]
    tail: tuple[Entry, ...]


Sink = Callable[[Sequence[Entry]], None]
"""Takes entries in order: one or more that were appended together, of one epoch, their offsets without holes."""


def ignore() -> None:
    """What a follower does that has nothing to lose."""


class EventLog(Protocol):
    """Append, read, follow, trim. Used from the event loop; never blocks it."""

    async def start(self) -> None:
        """Open and recover. A torn tail is cut; a channel whose end is uncertain gets a new epoch."""

    async def append(self, key: ChannelKey, events: Sequence[Event], memory: bytes = b"") -> tuple[Entry, ...]:
        """Append in order; followers see the entries before this returns.

        `memory` is what the channel's writer has to know to go on in another process or life: kept in one step with
        the events, instead of what was kept before, and shown to no reader. Empty leaves what is there.
        """

    async def memory(self, key: ChannelKey) -> bytes:
        """What the channel's last writer left to the next one; empty if nothing.

        Raises:
            Gone: The tenant's key was destroyed.
            Unavailable: It, or the key to it, cannot be had now.
        """

    async def recover(self, key: ChannelKey, after: Position | None) -> Recovery:
        """Complete tail after a known position, else snapshot.

        Raises:
            Gone: The tenant's key was destroyed.
            Unavailable: It, or the key to it, cannot be had now.
        """

    async def read(self, key: ChannelKey, after: Position | None, limit: int) -> tuple[Entry, ...]:
        """Up to `limit` entries after a position (None: from the oldest held on), in order and without holes.

        Raises:
            Conflict: The position is of another epoch, or what followed it is no longer held.
            Gone: The tenant's key was destroyed.
            Unavailable: It, or the key to it, cannot be had now.
        """

    def follow(self, key: ChannelKey, sink: Sink, lost: Callable[[], None] = ignore) -> Callable[[], None]:
        """Call `sink` for every entry appended from now on; returns the function that ends it.

        `lost` is called when entries may be missing that can no longer be told: the reader has to recover.
        """

    async def trim(self, key: ChannelKey) -> int:
        """Forget a channel whose call ended and whose retention passed; how many entries it had had. Needs no key."""

    def channels(self) -> AsyncIterator[ChannelKey]:
        """All channels held, live and ended."""

    async def stop(self) -> None:
        """Flush and mark a clean end."""
