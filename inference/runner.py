"""One model run for some rows: equal rows once, padded into one tensor, results checked.

journeys ──ids, equal ones once──▶ one tensor ──▶ LoadedModel.run ──check──▶ BatchResult, each journey's row in it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from inference.journey import BatchResult, Journey
from inference.model_config import NUMPY_DTYPES
from inference.plan import Bucket
from inference.service import Service
from inference.tokens import ID_BYTES, TokenBytes, pad_rows

Item = TypeVar("Item")


class Run(msgspec.Struct, frozen=True, eq=False):
    """What a run gave.

    Attributes:
        result: Outputs of the distinct rows.
        row_of: Row of each journey.
        ids: Token ids of each row; empty where the model takes none.
        shape: Of the tensors.
        tokens: Tokens that were not padding.
    """

    result: BatchResult
    row_of: Sequence[int]
    ids: Sequence[TokenBytes]
    shape: Bucket
    tokens: int


def halves(rows: Sequence[Item]) -> tuple[Sequence[Item], ...]:
    """What to retry of rows that failed together: two halves, or nothing where one row is to blame. Pure."""
    middle = len(rows) // 2
    return (rows[:middle], rows[middle:]) if middle else ()


def run_rows(service: Service, journeys: Sequence[Journey]) -> Run:
    """Run a model for rows that wait for it; blocks. Called from any thread.

    Raises:
        ValueError: If the model returns another number of rows than it was given.
        DeadlineExceeded: If the last deadline passed meanwhile and the backend gave up.
        Exception: Whatever the backend raises.
    """
    return _run_tokens(service, journeys) if service.token_inputs else _run_dense(service, journeys)


def _run_tokens(service: Service, journeys: Sequence[Journey]) -> Run:
    distinct: dict[TokenBytes, int] = {}
    row_of = [distinct.setdefault(journey.token_ids() or b"", len(distinct)) for journey in journeys]
    ids = list(distinct)
    lengths = [len(row) // ID_BYTES for row in ids]
    shape = service.ladder.fit(len(ids), max(lengths))
    token_ids, mask = pad_rows(ids, shape.rows, shape.tokens)
    inputs: dict[str, NDArray[Any]] = {}
    for spec in service.token_inputs:
        tensor = token_ids if spec.name == "input_ids" else mask if spec.name == "attention_mask" else mask * 0
        inputs[spec.name] = tensor.astype(NUMPY_DTYPES[spec.dtype], copy=False)
    result = _checked(service, inputs, shape.rows, len(ids), _last_deadline_s(journeys))
    return Run(result, row_of, ids, shape, sum(lengths))


def _run_dense(service: Service, journeys: Sequence[Journey]) -> Run:
    shape = service.ladder.fit(len(journeys), 1)
    inputs = {}
    for position, spec in enumerate(service.dense_inputs):
        # Rows of different plans keep the same tensor in different slots.
        rows = np.stack([journey.read(journey.step.step.inputs[position]) for journey in journeys])
        padding = [(0, shape.rows - len(rows))] + [(0, 0)] * (rows.ndim - 1)
        inputs[spec.name] = np.pad(rows, padding) if shape.rows > len(rows) else rows
    result = _checked(service, inputs, shape.rows, len(journeys), _last_deadline_s(journeys))
    return Run(result, range(len(journeys)), (), Bucket(shape.rows, 1), len(journeys))


def _last_deadline_s(journeys: Sequence[Journey]) -> float:
    return max(journey.request.deadline_s for journey in journeys)


def _checked(
    service: Service, inputs: dict[str, NDArray[Any]], given_rows: int, kept_rows: int, deadline_s: float
) -> BatchResult:
    wanted = service.wanted
    arrays = service.model.run(inputs, wanted.outputs, deadline_s)
    for name in wanted.outputs:
        if len(arrays[name]) != given_rows:
            raise ValueError(f"{name} has {len(arrays[name])} rows for {given_rows}")
    if kept_rows < given_rows:
        arrays = {name: array[:kept_rows] for name, array in arrays.items()}
    return BatchResult(arrays, wanted.bank)
