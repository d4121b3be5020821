"""The requests under way, from when they are taken to their one end, and the count of what became of them.

begin ──▶ under way ──deliver (from a thread: one wake-up of the loop)──▶ on_outputs …, on_done, stats, health
               └──▶ until_answered, drained
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from inference.crew import Delivery
from inference.errors import InferenceError
from inference.health import Health
from inference.journey import Journey
from inference.observer import EngineObserver, EngineStats
from inference.request import Outcome, RowClass


class Ledger:
    """Event-loop thread only, but for what says otherwise.

    Attributes:
        stats: The counters; those of other parts of the engine are left at 0.
        drained: Set while nothing is under way.
    """

    def __init__(self, health: Health, observer: EngineObserver, clock: Callable[[], float]) -> None:
        """Start with nothing under way.

        Args:
            health: Hears of batches.
            observer: Hears of everything.
            clock: Monotonic seconds.
        """
        self.stats = EngineStats()
        self.drained = asyncio.Event()
        self.drained.set()
        self._health = health
        self._observer = observer
        self._clock = clock
        self._under_way: set[Journey] = set()
        self._waiting: list[tuple[set[Journey], asyncio.Future[None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        """Requests under way."""
        return len(self._under_way)

    def open(self) -> None:
        """Deliver on the running loop."""
        self._loop = asyncio.get_running_loop()

    def begin(self, journey: Journey) -> None:
        """Take a request; it will end exactly once."""
        self._under_way.add(journey)
        self.drained.clear()

    def end(self, journeys: Sequence[Journey], outcome: Outcome) -> None:
        """End requests now."""
        delivery = Delivery()
        for journey in journeys:
            delivery.end(journey, outcome)
        self.deliver(delivery)

    def end_soon(self, journeys: Sequence[Journey], outcome: Outcome) -> None:
        """End requests in the loop's next turn: a callback must not run inside the call that caused it."""
        assert self._loop is not None
        if journeys:
            self._loop.call_soon(self.end, journeys, outcome)

    def fail_soon(self, journey: Journey, error: Exception) -> None:
        """End a request in the loop's next turn, because a step of it raised."""
        assert self._loop is not None
        delivery = Delivery()
        delivery.fail(journey, error)
        self._loop.call_soon(self.deliver, delivery)

    async def until_answered(self) -> None:
        """Return once every request that is under way now has ended; later ones do not count."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((set(self._under_way), ended))
        self._tell_waiting()
        await ended

    def deliver_from_thread(self, delivery: Delivery) -> None:
        """Deliver from the loop; callable from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.deliver, delivery)

    def deliver(self, delivery: Delivery) -> None:
        """Call back, and then count what happened: nobody waits for the counters."""
        for journey, outputs, outcome, error in delivery.ended:
            if journey not in self._under_way:
                continue  # it ended when a thread died
            request = journey.request
            if outputs:
                self._call_back(request.on_outputs, outputs)
            if outcome is not None:
                if outcome is not Outcome.DONE:
                    self.dropped(outcome.name.lower(), request.row_class)
                self._under_way.remove(journey)
                self._call_back(request.on_done, outcome, error)
        self._count(delivery)
        if not self._under_way:
            self.drained.set()
        if self._waiting:
            self._tell_waiting()

    def _count(self, delivery: Delivery) -> None:
        stats, observer, now_s = self.stats, self._observer, self._clock()
        for made in delivery.passes:
            observer.node(made.node, made.duration_s, is_failed=made.is_failed)
            if made.lane is not None and not made.is_failed:
                self._health.batch(made.lane, made.rows, made.padded_tokens, made.duration_s, now_s)
                stats.batches += 1
                stats.rows += made.rows
                stats.tokens += made.tokens
                stats.padded_tokens += made.padded_tokens
                observer.batch(made.lane[0], made.rows, made.tokens, made.padded_tokens, made.duration_s)
                for _ in range(made.duplicates):
                    self.skipped("same_batch")
        for row_class, delay_s in delivery.delays:
            observer.queue_delay(row_class, delay_s)

    def fail_all_from_thread(self) -> None:
        """Fail whatever is under way, because an engine thread died; callable from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._fail_all)

    def skipped(self, reason: str) -> None:
        """Count a row that needed no pass of its own."""
        self.stats.skipped[reason] = self.stats.skipped.get(reason, 0) + 1
        self._observer.skipped(reason)

    def dropped(self, reason: str, row_class: RowClass) -> None:
        """Count a request without its outputs; of shadow rows nobody waited for one."""
        if row_class is not RowClass.SHADOW:
            self.stats.dropped[reason] = self.stats.dropped.get(reason, 0) + 1
            self._observer.dropped(reason)

    def _fail_all(self) -> None:
        delivery = Delivery()
        for journey in self._under_way:
            delivery.ended.append((journey, [], Outcome.FAILED, InferenceError("an engine thread died")))
        self.deliver(delivery)

    def _tell_waiting(self) -> None:
        for waiting in list(self._waiting):
            older, ended = waiting
            older &= self._under_way
            if not older:
                self._waiting.remove(waiting)
                if not ended.done():
                    ended.set_result(None)

    def _call_back(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception as error:  # one consumer's mistake must not cost the other rows their answers
            assert self._loop is not None
            self._loop.call_exception_handler({"message": "an engine callback raised", "exception": error})
