"""What each step does to one row at once, as a function bound when the program is built. A new op is a branch here.

Step + Service ──make_compute──▶ function(journey) → value, leading score
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inference.head_views import Value
from inference.plan import Op, Slot, Step
from inference.request import Carry, EmbeddingArray, PrototypeSet
from inference.service import Service
from inference.tokens import ID_BYTES

if TYPE_CHECKING:
    from inference.journey import Journey
    from inference.program import ProgramStep

Compute = Callable[["Journey"], Value]
"""One row's step."""

Source = tuple[int, str]
"""Where a tensor comes from: index of its model step, and its name."""


def make_compute(
    step: Step,
    service: Service | None,
    tensor_of: Mapping[Slot, Source],
    speaker: Slot | None = None,
    carry: Slot | None = None,
) -> Compute | None:
    """Bind a step; None where rows have to wait for it, for a batch or for a registered function.

    Args:
        step: As compiled.
        service: Model version behind it.
        tensor_of: Slots that hold model tensors.
        speaker: Slot of who speaks, where a head depends on it.
        carry: Slot of what the turn before handed on, where a head depends on it.
    """
    match step.op:
        case Op.TOKENIZE:
            return _tokenize(step, service)
        case Op.CLASSIFY if "prototypes" in step.params:
            return _moments(step, service, tensor_of)
        case Op.CLASSIFY:
            return _classify(step, service, tensor_of, speaker, carry)
        case Op.POOL:
            return _pool(step)
        case Op.SELECT:
            return _select(step)
        case _:
            return None


def _tokenize(step: Step, service: Service | None) -> Compute:
    assert service is not None
    assert service.tokenizer is not None
    encode, slot = service.tokenizer.encode, step.inputs[0]
    return lambda journey: (encode(journey.values[slot] or ""), None)


def _classify(
    step: Step, service: Service | None, tensor_of: Mapping[Slot, Source], speaker: Slot | None, carry: Slot | None
) -> Compute:
    assert service is not None
    tensor = step.tensors[0]
    service.ask_for_head(tensor)
    index, _ = tensor_of[step.inputs[0]]
    model, version = service.lane

    def classify(journey: Journey) -> Value:
        result, row = journey.results[index]
        who = None if speaker is None else journey.values[speaker]
        before: Carry | None = None if carry is None else journey.values[carry]
        if before is not None and (numbers := before.of(model, version)) is not None:
            return journey.read_after(index, numbers).value(tensor, 0, who)
        return result.reading.value(tensor, row, who)

    return classify


def _moments(step: Step, service: Service | None, tensor_of: Mapping[Slot, Source]) -> Compute:
    assert service is not None
    book, slot = service.prototypes, step.inputs[0]
    source, version = tensor_of.get(slot), service.version.version

    def moments(journey: Journey) -> Value:
        prototypes = journey.request.prototypes
        if prototypes is not None and not isinstance(prototypes, PrototypeSet):
            prototypes = prototypes.get(version)
        if prototypes is None or not prototypes.phrases:
            return [], None
        if source is None:
            return book.compare(journey.values[slot][np.newaxis], [prototypes]).value(0, prototypes)
        result, row = journey.results[source[0]]
        return result.moments(source[1], row, book, prototypes)

    return moments


def _pool(step: Step) -> Compute:
    states, tokens = step.inputs
    mode = step.params["mode"]
    return lambda journey: (pooled(journey.read(states), len(journey.values[tokens]) // ID_BYTES, mode), None)


def _select(step: Step) -> Compute:
    inputs, key = step.inputs, step.params.get("key")

    def select(journey: Journey) -> Value:
        value = next((found for slot in inputs if (found := journey.read(slot)) is not None), None)
        return (value.get(key) if key is not None and value is not None else value), None

    return select


def pooled(states: NDArray[np.float32], num_tokens: int, mode: str) -> NDArray[np.float32]:
    """Make one unit vector of a row's token vectors.

    Args:
        states: `[tokens, dims]`, padding last.
        num_tokens: Tokens that are not padding.
        mode: `mean`, `max` or `first`.
    """
    kept = states[:num_tokens]
    vector = kept[0] if mode == "first" else kept.max(axis=0) if mode == "max" else kept.mean(axis=0)
    unit: NDArray[np.float32] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit


def call_function(step: ProgramStep, journeys: Sequence[Journey]) -> Sequence[Any]:
    """Call a registered function for some rows; blocks. Operator threads only.

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
