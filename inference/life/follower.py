"""Does in this process what another process of the same server decided about the versions of a model."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable

from inference.life.ledger import Ledger
from inference.life.record import Move, Record, SetAside, next_move

_log = logging.getLogger(__name__)

RETRY_S = 60.0
"""Until a decision that could not be followed is tried again."""


class Follower:
    """Event-loop thread only."""

    def __init__(
        self,
        ledger: Ledger,
        load: Callable[[str, int], Awaitable[SetAside | None]],
        move: Callable[[str, Move, Record], None],
        refuse: Callable[[str, int, SetAside], None],
        clock: Callable[[], float],
    ) -> None:
        """Start with nothing under way.

        Args:
            ledger: Of this process.
            load: Loads a version of a model, or returns why it cannot be.
            move: Changes who serves or is on trial to what the other's record says; what it needs is loaded.
            refuse: Sets a version aside, for the others too.
            clock: Monotonic seconds.
        """
        self._ledger = ledger
        self._load = load
        self._move = move
        self._refuse = refuse
        self._clock = clock
        self._under_way: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._again_at: dict[str, float] = {}

    async def catch_up(self, model: str) -> None:
        """Do what others decided about a model, before something is decided here."""
        async with self._under_way[model]:
            for _ in range(2):  # who serves, then what is on trial
                theirs = (await self._ledger.others()).get(model)
                if theirs is not None:
                    await self._step(model, self._ledger.records[model], theirs)

    async def follow(self, model: str, record: Record, theirs: Record) -> None:
        """Do the next thing on the way to another's record; the next look does the one after it.

        Args:
            model: Of the repository.
            record: What was so here when the other record was read.
            theirs: The other record.
        """
        if self._under_way[model].locked():
            return
        async with self._under_way[model]:
            await self._step(model, record, theirs)

    async def _step(self, model: str, record: Record, theirs: Record) -> None:
        if self._clock() < self._again_at.get(model, 0.0):
            return
        move, refusal = next_move(record, theirs), None
        if move is not None and move.kind != "give_up":
            refusal = await self._load(model, move.version)
        if self._ledger.records[model] is not record:
            return  # somebody decided otherwise meanwhile
        if move is not None and refusal is not None:
            if record.serving in theirs.set_aside:  # it is no choice for the others, so this process stays alone
                self._again_at[model] = self._clock() + RETRY_S
                extra = {"model": model, "version": move.version, "reason": refusal.reason}
                _log.error("another process changed the version and this one cannot; what serves stays", extra=extra)
            else:  # what one refuses, none serves
                self._refuse(model, move.version, refusal)
            return
        if move is not None:
            self._move(model, move, theirs)
            if move.kind in ("serve", "go_back"):  # what is on trial comes with the next look
                theirs = theirs.without_trial
        self._ledger.take(model, theirs)
