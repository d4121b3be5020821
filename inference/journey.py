"""One request on its way through its program: a short loop over steps, which stops where a pass has to be waited for.

    advance ──▶ MODEL: queue for a batch ──▶ BatchResult ──▶ advance ──▶ RETRIEVE: operator thread ──▶ advance ──▶ end

A journey belongs to one thread at a time: the event loop's, then a worker's, then an operator thread's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import msgspec
from numpy.typing import NDArray

from inference.head_views import Numbers, Speakers, Value
from inference.heads import HeadBank, Reading, ScoreArray
from inference.plan import Slot
from inference.program import Program, ProgramStep, Test
from inference.prototypes import PrototypeBook, PrototypeReading
from inference.request import Carry, Output, PrototypeSet, Request
from inference.tokens import TokenBytes


class BatchResult(msgspec.Struct, eq=False, gc=False):
    """What one model run gave, and the heads read of it so far. Shared by its rows, and by the memo after them.

    Callable from any thread: a race reads a head twice, with the same result. The memo keeps thousands of these, and
    nothing that they hold ever holds them: the collector need not look.

    Attributes:
        arrays: Tensor name to `[rows, …]`.
        bank: Heads that were asked for when it ran; the arrays hold their tensors.
    """

    arrays: Mapping[str, NDArray[Any]]
    bank: HeadBank
    _reading: Reading | None = None
    _moments: dict[str, PrototypeReading] | None = {}

    @property
    def reading(self) -> Reading:
        """What the heads say about all rows; read once."""
        if self._reading is None:
            self._reading = self.bank.read(self.arrays)
        return self._reading

    def read_after(self, rows: Sequence[int], carried: Sequence[ScoreArray | None]) -> Reading:
        """Read rows as they are after the turn before each, see `HeadBank.read_after`.

        What is kept of a batch stays as it was: the same words are said after other turns as well.
        """
        return self.bank.read_after(self.arrays, rows, carried)

    def moments(self, tensor: str, row: int, book: PrototypeBook, prototypes: PrototypeSet) -> Value:
        """Compare a row's embedding with its tenant's examples: while the batch is under way, all rows at once."""
        moments = self._moments
        if moments is None:
            return book.compare(self.arrays[tensor][row : row + 1], [prototypes]).value(0, prototypes)
        reading = moments.get(tensor)
        if reading is None or not reading.holds(prototypes):
            moments[tensor] = reading = book.compare(self.arrays[tensor], [prototypes])
        return reading.value(row, prototypes)

    def settle(self) -> None:
        """Drop what only the rows of the batch share: the memo keeps results for long, and the product is large."""
        self._moments = None


class Journey:
    """One request under way.

    Attributes:
        request: As submitted.
        program: What it runs.
        at: Index of the step it is at.
        values: Value table; None where a step was skipped.
        results: Index of a model step to the batch it was part of and its row there.
        ready: Outputs not yet handed over.
        arrived_s: When it was submitted.
        queued_s: When it began to wait for the step it is at.
        queue_ms: Time it waited for batches, to the microsecond.
        compute_ms: Time its batches ran, to the microsecond.
        started_s: When its first batch began; 0 before.
    """

    __slots__ = (
        "_after",
        "arrived_s",
        "at",
        "compute_ms",
        "program",
        "queue_ms",
        "queued_s",
        "ready",
        "request",
        "results",
        "started_s",
        "values",
    )

    def __init__(self, request: Request, program: Program, now_s: float) -> None:
        self.request = request
        self.program = program
        self.at = 0
        self.values: list[Any] = [None] * len(program.plan.slots)
        given = request.inputs
        for name, slot in program.inputs:
            self.values[slot] = given.get(name)
        self.results: dict[int, tuple[BatchResult, int]] = {}
        self._after: dict[int, Reading] = {}
        self.ready: list[Output] = []
        self.arrived_s = self.queued_s = now_s
        self.queue_ms = self.compute_ms = self.started_s = 0.0

    @property
    def step(self) -> ProgramStep:
        """The step it is at."""
        return self.program.steps[self.at]

    def advance(self, now_s: float) -> ProgramStep | None:
        """Run until a model or an operator has to be waited for.

        Args:
            now_s: Stamp of the outputs that become ready.

        Returns:
            The step to wait for; None at the end.
        """
        steps, values, at = self.program.steps, self.values, self.at
        while at < len(steps):
            step = steps[at]
            value: Any = None
            score: float | None = None
            if step.when is None or step.when(values):
                if step.compute is None:
                    self.at = at
                    return step
                value, score = step.compute(self)
                values[step.output] = value
            if step.emits:
                self.emit(step, value, score, now_s)
            at += 1
        self.at = at
        return None

    def take_result(self, result: BatchResult, row: int) -> None:
        """Pass the model step it waits for."""
        self.results[self.at] = (result, row)
        self.at += 1

    def take_value(self, value: Any, now_s: float) -> None:
        """Pass the step of a registered function."""
        step = self.step
        self.values[step.output] = value
        self.emit(step, value, None, now_s)
        self.at += 1

    def hand_over(self) -> list[Output]:
        """Return the outputs that became ready since the last time."""
        ready, self.ready = self.ready, []
        return ready

    def read(self, slot: Slot) -> Any:
        """Return the value of a slot: a row of a tensor where a model wrote it, None where that was skipped."""
        source = self.program.tensor_of.get(slot)
        if source is None:
            return self.values[slot]
        index, tensor = source
        if index not in self.results:
            return None
        result, row = self.results[index]
        return result.arrays[tensor][row]

    def read_after(self, index: int, carried: ScoreArray) -> Reading:
        """Return what the heads behind a model step say of this row alone after the turn before; row 0 of it."""
        reading = self._after.get(index)
        if reading is None:
            result, row = self.results[index]
            self._after[index] = reading = result.read_after([row], [carried])
        return reading

    def token_ids(self) -> TokenBytes | None:
        """Return the ids that the model step reads; None where it reads tensors."""
        value = self.values[self.step.step.inputs[0]]
        return value if isinstance(value, bytes) else None

    def emit(self, step: ProgramStep, value: Any, score: float | None, now_s: float) -> None:
        """Make the outputs that a step's value is wanted as."""
        model, version = (step.model, step.version) if value is not None else ("", 0)
        for name in step.emits:
            self.ready.append(
                Output(name, value, score, model, version, self.queue_ms, self.compute_ms, self.started_s, now_s)
            )


class _Entered:
    """The rows of a batch that enter a step; those of equal conditions are found once."""

    __slots__ = ("_journeys", "_rows", "_speakers", "sinks")

    def __init__(self, journeys: Sequence[Journey], rows: Sequence[int]) -> None:
        """Take journeys and the row of each in a reading."""
        self._journeys = journeys
        self._rows = rows
        self.sinks = [(j.values, j.ready.append, j.queue_ms, j.compute_ms, j.started_s) for j in journeys]
        self._speakers: dict[Slot | None, Speakers] = {None: [None] * len(rows)}

    def column(self, step: ProgramStep, reading: Reading, numbers: Numbers) -> list[Value]:
        """Return the step's value of every row."""
        if not step.head:
            assert step.compute is not None
            return [step.compute(journey) for journey in self._journeys]
        slot = step.speaker
        speakers = self._speakers.get(slot)
        if speakers is None:
            assert slot is not None
            self._speakers[slot] = speakers = [journey.values[slot] for journey in self._journeys]
        return reading.views[step.head](numbers, self._rows, speakers)


def pass_heads(journeys: Sequence[Journey], rows: Sequence[int], result: BatchResult, now_s: float) -> None:
    """Take the rows of a batch, all just behind one model step of one program, past the heads behind it.

    Gives what `Journey.advance` would, head by head instead of row by row: the loop stays short, and a condition that
    many heads share is asked once a row. Rows without numbers stay where they are; `advance` tells why they fail.

    Args:
        journeys: At the step behind the model step.
        rows: Row of each in the result.
        result: Of the batch.
        now_s: Stamp of the outputs.
    """
    program, first = journeys[0].program, journeys[0].at
    steps = program.heads_behind[first - 1]
    if not steps:
        return
    reading, rows = _read(steps, journeys, rows, result)
    numbers, broken = reading.numbers, reading.broken
    if broken:
        pairs = [pair for pair in zip(journeys, rows, strict=True) if pair[1] not in broken]
        journeys, rows = zip(*pairs, strict=True) if pairs else ((), ())
    entered: dict[Test | None, _Entered] = {None: _Entered(journeys, rows)}
    skipped: dict[Test | None, list[Journey]] = {None: []}
    for step in steps:
        when, slot, names, model, version = step.when, step.output, step.emits, step.model, step.version
        if when not in entered:
            assert when is not None
            truths = [when(journey.values) for journey in journeys]
            entered[when] = _Entered(list(compress(journeys, truths)), list(compress(rows, truths)))
            skipped[when] = [journey for journey, is_true in zip(journeys, truths, strict=True) if not is_true]
        inside = entered[when]
        column = inside.column(step, reading, numbers)
        for (values, append, queue_ms, compute_ms, started_s), (value, score) in zip(inside.sinks, column, strict=True):
            values[slot] = value
            for name in names:
                append(Output(name, value, score, model, version, queue_ms, compute_ms, started_s, now_s))
        for journey in skipped[when]:
            journey.emit(step, None, None, now_s)
    for journey in journeys:
        journey.at = first + len(steps)


def _read(
    steps: Sequence[ProgramStep], journeys: Sequence[Journey], rows: Sequence[int], result: BatchResult
) -> tuple[Reading, Sequence[int]]:
    """Read the heads, after the turn before where a journey has one; the reading, and each journey's row in it."""
    step = next((step for step in steps if step.carry is not None), None)
    if step is None or step.carry is None:
        return result.reading, rows
    befores: list[Carry | None] = [journey.values[step.carry] for journey in journeys]
    carried = [None if before is None else before.of(step.model, step.version) for before in befores]
    if all(numbers is None for numbers in carried):
        return result.reading, rows
    return result.read_after(rows, carried), range(len(rows))
