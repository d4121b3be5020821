"""One request on its way through its program: a short loop over steps, which stops where a pass has to be waited for.

    advance ──▶ MODEL: queue for a batch ──▶ BatchResult ──▶ advance ──▶ RETRIEVE: operator thread ──▶ advance ──▶ end

A journey belongs to one thread at a time: the event loop's, then a worker's, then an operator thread's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from inference.heads import HeadBank, Reading, Value
from inference.plan import Slot
from inference.program import Program, ProgramStep, Test
from inference.prototypes import PrototypeBook, PrototypeReading
from inference.request import Carry, Output, PrototypeSet, Request
from inference.tokens import TokenBytes


class BatchResult:
    """What one model run gave, and the heads read of it so far. Shared by its rows, and by the memo after them.

    Callable from any thread: a race reads a head twice, with the same result.
    """

    __slots__ = ("_is_settled", "_moments", "_reading", "arrays", "bank")

    def __init__(self, arrays: Mapping[str, NDArray[Any]], bank: HeadBank) -> None:
        """Take the outputs of a run.

        Args:
            arrays: Tensor name to `[rows, …]`.
            bank: Heads that were asked for when it ran; the arrays hold their tensors.
        """
        self.arrays = arrays
        self.bank = bank
        self._reading: Reading | None = None
        self._moments: dict[str, PrototypeReading] = {}
        self._is_settled = False

    @property
    def reading(self) -> Reading:
        """What the heads say about all rows; read once."""
        if self._reading is None:
            self._reading = self.bank.read(self.arrays)
        return self._reading

    def moments(self, tensor: str, row: int, book: PrototypeBook, prototypes: PrototypeSet) -> Value:
        """Compare a row's embedding with its tenant's examples: while the batch is under way, all rows at once."""
        if self._is_settled:
            return book.compare(self.arrays[tensor][row : row + 1], [prototypes]).value(0, prototypes)
        reading = self._moments.get(tensor)
        if reading is None or not reading.holds(prototypes):
            self._moments[tensor] = reading = book.compare(self.arrays[tensor], [prototypes])
        return reading.value(row, prototypes)

    def settle(self) -> None:
        """Drop what only the rows of the batch share: the memo keeps results for long, and the product is large."""
        self._is_settled = True
        self._moments.clear()


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
        queue_ms: Time it waited for batches.
        compute_ms: Time its batches ran.
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

    def take_result(self, result: BatchResult, row: int, now_s: float) -> None:
        """Pass the model step it waits for."""
        self.results[self.at] = (result, row)
        step = self.step
        if step.emits:
            self.emit(step, self.read(step.output), None, now_s)
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

    def read_after(self, index: int, carried: NDArray[Any]) -> Reading:
        """Return what the heads behind a model step say of this row alone after the turn before; row 0 of it."""
        reading = self._after.get(index)
        if reading is None:
            result, row = self.results[index]
            self._after[index] = reading = result.bank.read_after(result.arrays, [row], [carried])
        return reading

    def token_ids(self) -> TokenBytes | None:
        """Return the ids that the model step reads; None where it reads tensors."""
        value = self.values[self.step.step.inputs[0]]
        return value if isinstance(value, bytes) else None

    def emit(self, step: ProgramStep, value: Any, score: float | None, now_s: float) -> None:
        """Make the outputs that a step's value is wanted as."""
        model, version = (step.model, step.version) if value is not None else ("", 0)
        for name, slot in step.emits:
            shown = value if slot == step.output else self.read(slot)
            self.ready.append(
                Output(name, shown, score, model, version, self.queue_ms, self.compute_ms, self.started_s, now_s)
            )


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
    reading = result.reading
    steps = program.heads_behind[first - 1]
    after = _read_after(steps, journeys, rows, result)
    places = range(len(rows))
    able = [trio for trio in zip(journeys, rows, places, strict=True) if trio[1] not in reading.broken]
    entered: dict[Test | None, list[tuple[Journey, int, int]]] = {None: able}
    skipped: dict[Test | None, list[Journey]] = {None: []}
    for step in steps:
        when, slot, speaker = step.when, step.output, step.speaker
        if when is not None and when not in entered:
            truths = [when(journey.values) for journey, _, _ in able]
            entered[when] = [trio for trio, is_true in zip(able, truths, strict=True) if is_true]
            skipped[when] = [trio[0] for trio, is_true in zip(able, truths, strict=True) if not is_true]
        is_after = after is not None and step.carry is not None and step.head in after.views
        source = after if after is not None and is_after else reading
        view = source.views[step.head] if step.head else None
        names = [name for name, _ in step.emits]
        for journey, row, place in entered[when]:
            values = journey.values
            if view is not None:
                value, score = view(source, place if is_after else row, None if speaker is None else values[speaker])
            else:
                assert step.compute is not None
                value, score = step.compute(journey)
            values[slot] = value
            queue_ms, compute_ms, started_s = journey.queue_ms, journey.compute_ms, journey.started_s
            for name in names:
                output = Output(name, value, score, step.model, step.version, queue_ms, compute_ms, started_s, now_s)
                journey.ready.append(output)
        for journey in skipped[when]:
            journey.emit(step, None, None, now_s)
    for journey, _, _ in able:
        journey.at = first + len(steps)


def _read_after(
    steps: Sequence[ProgramStep], journeys: Sequence[Journey], rows: Sequence[int], result: BatchResult
) -> Reading | None:
    """Read the heads that depend on the turn before, a row a journey; None where no journey has one before it."""
    step = next((step for step in steps if step.carry is not None), None)
    if step is None or step.carry is None:
        return None
    slot = step.carry
    before: list[Carry | None] = [journey.values[slot] for journey in journeys]
    carried = [None if carry is None else carry.of(step.model, step.version) for carry in before]
    if all(numbers is None for numbers in carried):
        return None
    return result.bank.read_after(result.arrays, rows, carried)
