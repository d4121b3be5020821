"""Who owns a call: one process at a time, by a lease with a fence.

A process that did not renew its lease for its time has lost the call; the next owner gets a higher fence, and the log
refuses whatever the former one still wants to append. One process alone owns everything.
"""

from __future__ import annotations

from typing import Protocol

from server.log.contract import ChannelKey
from server.wire.errors import Busy, Conflict


class Fenced(Conflict):
    """Another process owns this call by now; nothing was appended."""


class Elsewhere(Busy):
    """Another process owns this call.

    Args:
        address: Where that process takes sockets for its calls, `host:port`; empty if it takes none.
    """

    def __init__(self, address: str) -> None:
        super().__init__("another process of this server has the call", field="conversation_id")
        self.address = address


class Leases(Protocol):
    """Takes and gives back calls. Used from the event loop."""

    @property
    def is_shared(self) -> bool:
        """Whether there are other processes that could go on with a call."""

    async def acquire(self, key: ChannelKey) -> None:
        """Own a call's channel from now on.

        Raises:
            Elsewhere: Another process does.
            Unavailable: That cannot be known now.
        """

    async def whereabouts(self, key: ChannelKey) -> str | None:
        """Address of another process that owns a call's channel, None if none does.

        Raises:
            Unavailable: That cannot be known now.
        """

    async def release(self, key: ChannelKey, *, is_over: bool) -> None:
        """Own it no more: the call is over, or another process shall go on with it."""


class SoleOwner:
    """`Leases` of the only process."""

    is_shared = False

    async def acquire(self, key: ChannelKey) -> None:
        """See `Leases`."""

    async def whereabouts(self, key: ChannelKey) -> str | None:
        """See `Leases`."""
        return None

    async def release(self, key: ChannelKey, *, is_over: bool) -> None:
        """See `Leases`."""
