"""One request on its way through its program: a short loop over steps, which stops where a pass has to be waited for.

    advance ──▶ MODEL: queue for a batch ──▶ BatchResult ──▶ advance ──▶ RETRIEVE: operator thread ──▶ advance ──▶ end

A journey belongs to one thread at a time: the event loop's, then a worker's, then an operator thread's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.heads import Head, Reading, Value
from inference.plan import Op, Slot
from inference.program import Program, ProgramStep
from inference.prototypes import PrototypeBook, PrototypeReading
from inference.request import EmbeddingArray, Output, PrototypeSet, Request
from inference.tokens import ID_BYTES, TokenBytes


class BatchResult:
    """What one model run gave, and the heads read of it so far. Shared by its rows, and by the memo after them.

    Callable from any thread: a race reads a head twice, with the same result.
    """

    __slots__ = ("_is_settled", "_moments", "_readings", "arrays")

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take the outputs of a run: tensor name to `[rows, …]`."""
        self.arrays = arrays
        self._readings: dict[int, Reading] = {}
        self._moments: dict[str, PrototypeReading] = {}
        self._is_settled = False

    def reading(self, head: Head) -> Reading:
        """Read a head for all rows, once."""
        reading = self._readings.get(id(head))
        if reading is None:
            self._readings[id(head)] = reading = head.read(self.arrays)
        return reading

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
        inputs = request.inputs
        for name, slot in program.plan.inputs.items():
            self.values[slot] = inputs.get(name)
        self.results: dict[int, tuple[BatchResult, int]] = {}
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
        steps, values = self.program.steps, self.values
        while self.at < len(steps):
            step = steps[self.at]
            if step.when is not None and not step.when(values):
                for name, _ in step.emits:
                    self._emit(step, name, None, None, now_s)
            elif step.op is Op.CLASSIFY:
                value, score = self._classify(step)
                values[step.output] = value
                for name, _ in step.emits:
                    self._emit(step, name, value, score, now_s)
            elif step.op in (Op.MODEL, Op.RETRIEVE, Op.PYTHON):
                return step
            else:
                value = self._compute(step)
                values[step.output] = value
                for name, _ in step.emits:
                    self._emit(step, name, value, None, now_s)
            self.at += 1
        return None

    def take_result(self, result: BatchResult, row: int, now_s: float) -> None:
        """Pass the model step it waits for."""
        self.results[self.at] = (result, row)
        for name, slot in self.step.emits:
            self._emit(self.step, name, self.read(slot), None, now_s)
        self.at += 1

    def take_value(self, value: Any, now_s: float) -> None:
        """Pass the operator step it waits for."""
        step = self.step
        self.values[step.output] = value
        for name, _ in step.emits:
            self._emit(step, name, value, None, now_s)
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

    def token_ids(self) -> TokenBytes | None:
        """Return the ids that the model step reads; None where it reads tensors."""
        value = self.values[self.step.step.inputs[0]]
        return value if isinstance(value, bytes) else None

    # -- steps -------------------------------------------------------------------------------------------------------

    def _classify(self, step: ProgramStep) -> Value:
        slot = step.step.inputs[0]
        source = self.program.tensor_of.get(slot)
        if step.head is None:
            return self._moments(step, slot, source)
        assert source is not None  # the compiler binds heads to model tensors only
        result, row = self.results[source[0]]
        speaker = self.values[step.speaker] if step.speaker is not None else None
        return result.reading(step.head).value(row, speaker)

    def _moments(self, step: ProgramStep, slot: Slot, source: tuple[int, str] | None) -> Value:
        prototypes = self.request.prototypes
        if prototypes is None or not prototypes.phrases:
            return [], None
        assert step.service is not None
        book = step.service.prototypes
        if source is not None:
            result, row = self.results[source[0]]
            return result.moments(source[1], row, book, prototypes)
        vector = self.values[slot]
        return book.compare(vector[np.newaxis], [prototypes]).value(0, prototypes)

    def _compute(self, step: ProgramStep) -> Any:
        inputs, params = step.step.inputs, step.step.params
        match step.op:
            case Op.TOKENIZE:
                assert step.service is not None
                assert step.service.tokenizer is not None
                return step.service.tokenizer.encode(self.values[inputs[0]] or "")
            case Op.POOL:
                return _pool(self.read(inputs[0]), len(self.values[inputs[1]]) // ID_BYTES, params["mode"])
            case _:
                value = next((found for slot in inputs if (found := self.read(slot)) is not None), None)
                return value.get(params["key"]) if "key" in params and value is not None else value

    def _emit(self, step: ProgramStep, name: str, value: Any, score: float | None, now_s: float) -> None:
        service = step.service if value is not None else None
        self.ready.append(
            Output(
                name=name,
                value=value,
                score=score,
                model=service.version.name if service else "",
                version=service.version.version if service else 0,
                queue_ms=self.queue_ms,
                compute_ms=self.compute_ms,
                started_s=self.started_s,
                ready_s=now_s,
            )
        )


def _pool(states: NDArray[np.float32], num_tokens: int, mode: str) -> NDArray[np.float32]:
    """Make one unit vector of a row's token vectors `[tokens, dims]`, padding left out."""
    kept = states[:num_tokens]
    vector = kept[0] if mode == "first" else kept.max(axis=0) if mode == "max" else kept.mean(axis=0)
    unit: NDArray[np.float32] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit


def call_operator(step: ProgramStep, journeys: Sequence[Journey]) -> Sequence[Any]:
    """Call a registered function for some rows; blocks. Operator threads only.

    Each row's mapping holds the declared inputs, the node's `params`, and what a `python` node reads, by name.

    Raises:
        ValueError: If it does not return one value a row.
        Exception: Whatever the function raises.
    """
    assert step.function is not None
    read = [[journey.read(slot) for slot in step.step.inputs] for journey in journeys]
    vectors = [next((value for value in row if isinstance(value, np.ndarray)), None) for row in read]
    embeddings: EmbeddingArray = (
        np.stack([vector for vector in vectors if vector is not None])
        if all(vector is not None for vector in vectors)
        else np.empty((len(journeys), 0), np.float32)
    )
    texts = [next((value for value in row if isinstance(value, str)), "") for row in read]
    named = [
        {**journey.request.inputs, **step.step.params, **dict(zip(step.input_names, row, strict=True))}
        for journey, row in zip(journeys, read, strict=True)
    ]
    values = step.function(embeddings, texts, named)
    if len(values) != len(journeys):
        raise ValueError(f"{step.step.node} returned {len(values)} values for {len(journeys)} rows")
    return values
