"""The threads of the engine: workers that run batches, and one thread for registered functions.

    queue ──pop (lock)──▶ worker ▸ run ▸ advance ─┬─▶ deliver (one call a batch)
      ▲                                           ├─▶ operators ──▶ call ▸ advance ─▶ deliver
      └──────────── next model of the plan ───────┘

A worker asks for its next batch itself, so no core waits for the event loop.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Condition, Lock, Thread

import msgspec

from inference.batching import Batch, BatchingPolicy
from inference.errors import BackendUnavailable, DeadlineExceeded, InferenceError, ModelFailed, OverloadedError
from inference.journey import BatchResult, Journey, pass_heads
from inference.memo import Memo
from inference.ops import call_function
from inference.plan import Op
from inference.priority import SERVING, give_way
from inference.program import Program, ProgramStep
from inference.request import Outcome, Output, RowClass
from inference.row import Admission, Lane, Refusal, Row
from inference.runner import halves, run_rows
from inference.service import Service
from inference.tokens import ID_BYTES

_log = logging.getLogger(__name__)

_OPERATOR_ROWS = 32
"""Most rows of one call to a registered function."""

Remembered = tuple[BatchResult, int]
"""What the memo keeps: a batch and a row of it."""


class Pass(msgspec.Struct, frozen=True):
    """One call of a model or a registered function, for statistics.

    Attributes:
        node: Node of the graph.
        lane: Model and version behind it, None for a function.
        rows: Distinct rows computed.
        duplicates: Rows answered by an equal neighbour.
        tokens: Tokens that were not padding.
        padded_tokens: Tokens computed.
        duration_s: Time it took.
        is_failed: Whether it raised.
    """

    node: str
    lane: Lane | None
    rows: int
    duplicates: int
    tokens: int
    padded_tokens: int
    duration_s: float
    is_failed: bool = False


@dataclass(slots=True)
class Delivery:
    """What a batch has for the event loop.

    Attributes:
        ended: Journeys with something to hand over: their outputs, and how they ended if they did.
        passes: Calls that were made.
        delays: Class and queue delay of each row of the batch.
        onward: Journeys with a further step to wait for.
    """

    ended: list[tuple[Journey, list[Output], Outcome | None, InferenceError | None]] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    delays: list[tuple[RowClass, float]] = field(default_factory=list)
    onward: list[Journey] = field(default_factory=list)

    def end(self, journey: Journey, outcome: Outcome | None, error: InferenceError | None = None) -> None:
        """Hand over what is ready, and the end where there is one."""
        if journey.ready or outcome is not None:
            self.ended.append((journey, journey.hand_over(), outcome, error))

    def fail(self, journey: Journey, error: Exception) -> None:
        """End a journey whose step raised."""
        failed = ModelFailed(f"node {journey.step.step.node} failed ({type(error).__name__})")
        failed.__cause__ = error
        self.end(journey, Outcome.FAILED, failed)


class Crew:
    """Threads around one batching policy. `admit`, `cancel` and `take_operator` may be called from any thread."""

    def __init__(
        self,
        policy: BatchingPolicy,
        memo: Memo[Remembered],
        deliver: Callable[[Delivery], None],
        *,
        clock: Callable[[], float],
        max_operator_rows: int,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        """Prepare; `start` begins.

        Args:
            policy: Guarded by the crew's lock from now on.
            memo: Filled by workers.
            deliver: Called by any thread, must not block.
            clock: Monotonic seconds, the same as the requests' deadlines.
            max_operator_rows: Rows that may wait for registered functions.
            on_crash: Called when a thread dies of something that is no row's fault.
        """
        self._policy = policy
        self._memo = memo
        self._deliver = deliver
        self._clock = clock
        self._max_operator_rows = max_operator_rows
        self._on_crash = on_crash
        self._threads: list[Thread] = []
        self._is_stopping = False
        self._lock = Lock()
        # One token a worker to be woken; a C queue wakes in half the time of a `Condition`, which is Python.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._operator_wake = Condition(self._lock)
        self._for_operators: deque[Journey] = deque()
        self._idle = 0

    def start(self, num_workers: int) -> None:
        """Start the workers and the operator thread."""
        self._threads = [Thread(target=self._guard, args=(self._work,), name=f"engine-{i}") for i in range(num_workers)]
        self._threads.append(Thread(target=self._guard, args=(self._operate,), name="engine-operators"))
        for thread in self._threads:
            thread.daemon = True  # a process that is told to die must not wait for a model
            thread.start()

    def stop(self) -> None:
        """End the threads once nothing is queued; blocks."""
        with self._lock:
            self._is_stopping = True
            self._operator_wake.notify_all()
        for _ in self._threads:
            self._wake.put(None)
        for thread in self._threads:
            thread.join()

    def open_lane(self, service: Service) -> None:
        """Accept rows of a version that was loaded meanwhile."""
        with self._lock:
            self._policy.open_lane(service.lane, service.ladder, service.cost)

    def close_lane(self, lane: Lane) -> None:
        """Forget a version that no row is under way for."""
        with self._lock:
            self._policy.close_lane(lane)

    def admit(self, journey: Journey) -> Admission:
        """Queue a journey for the model step it is at."""
        now_s = self._clock()
        journey.queued_s = now_s
        row = _row(journey, now_s)
        with self._lock:
            admission = self._policy.admit(row, now_s)
            is_wanted = self._idle > self._wake.qsize()
        if is_wanted:
            self._wake.put(None)
        return admission

    def take_operator(self, journey: Journey) -> bool:
        """Queue a journey for the registered function it is at; False if too many wait."""
        with self._lock:
            if len(self._for_operators) >= self._max_operator_rows:
                return False
            self._for_operators.append(journey)
            self._operator_wake.notify()
        return True

    def cancel(self, owner: str) -> list[Journey]:
        """Drop what a call has queued."""
        with self._lock:
            dropped = [row.item for row in self._policy.cancel(owner)]
            waiting = [journey for journey in self._for_operators if journey.request.owner == owner]
            for journey in waiting:
                self._for_operators.remove(journey)
        return dropped + waiting

    def clear(self) -> list[Journey]:
        """Drop everything that is queued."""
        with self._lock:
            dropped = [row.item for row in self._policy.clear()] + list(self._for_operators)
            self._for_operators.clear()
        return dropped

    # -- workers -----------------------------------------------------------------------------------------------------

    def _guard(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            _log.critical("an engine thread died", exc_info=error)
            self._on_crash(error)

    def _work(self) -> None:
        give_way(SERVING)
        while (batch := self._next_batch()) is not None:
            self._run(batch)

    def _next_batch(self) -> Batch | None:
        while True:
            with self._lock:
                pop = self._policy.pop(self._clock())
                if pop.batch is None and not pop.late:
                    if self._is_stopping:
                        return None
                    self._idle += 1  # from here on, a new row leaves a token
            if pop.batch is None and not pop.late:
                self._wait(pop.wake_s)
                continue
            if pop.late:
                delivery = Delivery()
                for row in pop.late:
                    delivery.end(row.item, Outcome.LATE)
                self._deliver(delivery)
            if pop.batch is not None:
                return pop.batch

    def _wait(self, until_s: float | None) -> None:
        """Sleep until a row comes, or until it is time to look again."""
        timeout_s = None if until_s is None else max(0.0, until_s - self._clock())
        with suppress(Empty):
            self._wake.get(timeout=timeout_s)
        with self._lock:
            self._idle -= 1

    def _run(self, batch: Batch) -> None:
        started_s = self._clock()
        journeys: list[Journey] = [row.item for row in batch.rows]
        service = journeys[0].step.service  # of the program, so a version withdrawn meanwhile still serves its rows
        assert service is not None
        delivery = Delivery()
        for journey in journeys:
            delay_s = started_s - journey.queued_s
            journey.queue_ms = round(1000.0 * journey.queue_ms + 1e6 * delay_s) / 1000.0
            journey.started_s = journey.started_s or started_s
            delivery.delays.append((journey.request.row_class, delay_s))
        is_whole = self._attempt(service, journeys, delivery)
        with self._lock:
            self._policy.finished(batch, self._clock() - started_s if is_whole else None)
        self._hand_over(delivery)

    def _attempt(self, service: Service, journeys: Sequence[Journey], delivery: Delivery) -> bool:
        """Run rows, in halves if they fail together. Returns whether the first attempt held."""
        started_s = self._clock()
        node = journeys[0].step.step.node
        try:
            run = run_rows(service, journeys)
        except Exception as error:
            took_s = self._clock() - started_s
            delivery.passes.append(Pass(node, service.lane, len(journeys), 0, 0, 0, took_s, is_failed=True))
            if isinstance(error, DeadlineExceeded | BackendUnavailable):
                # No row is to blame, and smaller batches would wait for the same machine once more.
                is_late = isinstance(error, DeadlineExceeded)
                for journey in journeys:
                    delivery.end(journey, Outcome.LATE if is_late else Outcome.FAILED, None if is_late else error)
                return False
            parts = halves(journeys)
            if not parts:
                # The type alone: a runtime's message may quote the input.
                failed = ModelFailed(f"model {service.version.name} failed ({type(error).__name__})")
                failed.__cause__ = error
                delivery.end(journeys[0], Outcome.FAILED, failed)
            for part in parts:
                self._attempt(service, part, delivery)
            return False
        took_s = self._clock() - started_s
        num_rows, duplicates = len(journeys), len(journeys) - len(set(run.row_of))
        delivery.passes.append(
            Pass(
                node,
                service.lane,
                num_rows - duplicates,
                duplicates,
                run.tokens,
                run.shape.padded_tokens,
                took_s,
            )
        )
        self._memo.keep(service.lane, ((ids, (run.result, row)) for row, ids in enumerate(run.ids)))
        now_s = self._clock()
        programs: dict[tuple[Program, int], tuple[list[Journey], list[int]]] = {}
        took_us = took_s * 1e6
        for journey, row in zip(journeys, run.row_of, strict=True):
            journey.compute_ms = round(1000.0 * journey.compute_ms + took_us) / 1000.0
            journey.take_result(run.result, row)
            key = (journey.program, journey.at)
            alike = programs.get(key)
            if alike is None:
                alike = programs[key] = ([], [])
            alike[0].append(journey)
            alike[1].append(row)
        for alike in programs.values():
            pass_heads(*alike, run.result, now_s)
        for journey in journeys:
            self._advance(journey, delivery, now_s)
        run.result.settle()
        return True

    def _advance(self, journey: Journey, delivery: Delivery, now_s: float) -> None:
        """Take a journey as far as it goes."""
        try:
            step = journey.advance(now_s)
        except Exception as error:
            delivery.fail(journey, error)
            return
        delivery.end(journey, Outcome.DONE if step is None else None)
        if step is not None:
            delivery.onward.append(journey)

    def _hand_over(self, delivery: Delivery) -> None:
        """Deliver, and only then pass journeys on: another thread must not overtake with their next outputs."""
        onward, delivery.onward = delivery.onward, []
        self._deliver(delivery)
        refused = Delivery()
        for journey in onward:
            if journey.step.step.op is not Op.MODEL:
                if not self.take_operator(journey):
                    refused.end(journey, Outcome.FAILED, OverloadedError("too many rows wait for functions"))
                continue
            admission = self.admit(journey)
            if admission.superseded is not None:
                refused.end(admission.superseded.item, Outcome.SUPERSEDED)
            if admission.refusal is Refusal.LATE:
                refused.end(journey, Outcome.LATE)
            elif admission.refusal is not None:
                refused.end(journey, Outcome.FAILED, OverloadedError(admission.refusal.value))
        if refused.ended:
            self._deliver(refused)

    # -- operators ---------------------------------------------------------------------------------------------------

    def _operate(self) -> None:
        while True:
            with self._lock:
                while not self._for_operators:
                    if self._is_stopping:
                        return
                    self._operator_wake.wait()
                step = self._for_operators[0].step
                journeys = [journey for journey in self._for_operators if _same_call(journey.step, step)]
                journeys = journeys[:_OPERATOR_ROWS]
                for journey in journeys:
                    self._for_operators.remove(journey)
            delivery = Delivery()
            now_s = self._clock()
            in_time = []
            for journey in journeys:
                if now_s < journey.request.deadline_s:
                    in_time.append(journey)
                else:
                    delivery.end(journey, Outcome.LATE)
            if in_time:
                self._call(in_time, delivery)
            self._hand_over(delivery)

    def _call(self, journeys: Sequence[Journey], delivery: Delivery) -> None:
        """Call a registered function, in halves if it fails."""
        step = journeys[0].step
        started_s = self._clock()
        try:
            values = call_function(step, journeys)
        except Exception as error:
            took_s = self._clock() - started_s
            delivery.passes.append(Pass(step.step.node, None, len(journeys), 0, 0, 0, took_s, is_failed=True))
            parts = halves(journeys)
            if not parts:
                delivery.fail(journeys[0], error)
            for part in parts:
                self._call(part, delivery)
            return
        now_s = self._clock()
        delivery.passes.append(Pass(step.step.node, None, len(journeys), 0, 0, 0, now_s - started_s))
        for journey, value in zip(journeys, values, strict=True):
            journey.take_value(value, now_s)
            self._advance(journey, delivery, now_s)


def _row(journey: Journey, now_s: float) -> Row:
    request, service = journey.request, journey.step.service
    assert service is not None
    ids = journey.token_ids()
    return Row(
        lane=service.lane,
        tokens=len(ids) // ID_BYTES if ids is not None else 1,
        row_class=request.row_class,
        owner=request.owner,
        # Two graphs, or two models of one, may look at the same utterance without replacing each other.
        identity=(request.owner, request.key, request.plan.graph, journey.at) if request.key else None,
        revision=request.revision,
        deadline_s=request.deadline_s,
        arrived_s=now_s,
        item=journey,
    )


def _same_call(one: ProgramStep, other: ProgramStep) -> bool:
    return one.function is other.function and one.step.node == other.step.node and one.step.params == other.step.params
