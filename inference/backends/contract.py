"""The backend contract: load a version, warm it, run batches, unload it.

    ModelVersion ──Backend.load──▶ LoadedModel ──warm(buckets)──▶ measured cost
                                       └──run(tensors, outputs)──▶ arrays ──unload

A backend knows tensors, not texts or rows. `run` blocks and is called from several threads at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from inference.model_config import NUMPY_DTYPES, ModelConfig, TensorSpec
from inference.plan import Bucket
from inference.repository import ModelVersion

Tensors = Mapping[str, NDArray[Any]]
"""Model input or output name to `[rows, …]`."""


class LoadedModel(Protocol):
    """A model version in memory."""

    @property
    def is_exact(self) -> bool:
        """Whether any shape inside a bucket runs as fast as it can; otherwise shapes are padded up to a bucket."""

    @property
    def preferred_slots(self) -> int:
        """Batches that are worth running at the same time."""

    def run(self, inputs: Tensors, outputs: Sequence[str], deadline_s: float = math.inf) -> Tensors:
        """Run one batch; blocks. Called from any thread, from several at once.

        Args:
            inputs: Every input of the model, all with the same number of rows. Valid until the call returns.
            outputs: Names wanted; nothing else is computed where the runtime can help it.
            deadline_s: Monotonic instant after which no row of the batch is waited for. A backend that waits for
                another machine gives up then; one in process does not look.

        Raises:
            DeadlineExceeded: If it gave up.
            Exception: Whatever the runtime raises; the engine blames the batch's rows, no one else's.
        """

    def unload(self) -> None:
        """Free what it holds. No run is under way, none follows."""


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """How a model version that runs elsewhere is doing.

    Attributes:
        backend: Name of the backend.
        state: Of its breaker: `closed` while it serves, `open` while nothing is sent to it, `half_open` while a few
            batches try it.
        reason: Why the breaker opened last; empty: it never did.
        num_served: Batches that it answered.
        num_failed: Batches that it did not.
        num_fallback: Batches that the backend in process answered instead.
    """

    backend: str
    state: Literal["closed", "open", "half_open"]
    reason: str
    num_served: int
    num_failed: int
    num_fallback: int


@runtime_checkable
class HasStatus(Protocol):
    """A loaded model with more to tell than that it is loaded."""

    def status(self) -> BackendStatus:
        """Return a snapshot; from any thread."""


class Backend(Protocol):
    """Loads versions of models."""

    @property
    def name(self) -> str:
        """As in `config.pbtxt`."""

    def load(self, version: ModelVersion) -> LoadedModel:
        """Load a version and check it against its config; blocks.

        Raises:
            ModelError: If the weights cannot be loaded or do not have the tensors that the config names.
        """


TOKEN_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
"""Inputs that the engine makes of a row's token ids; every other input is a tensor that the graph names."""


def is_token_input(spec: TensorSpec) -> bool:
    """Whether an input has the length of the text, `[rows, tokens]`."""
    return spec.name in TOKEN_INPUTS


def blank_inputs(config: ModelConfig, bucket: Bucket) -> dict[str, NDArray[Any]]:
    """Make inputs of a bucket's shape: token tensors are ones, so that nothing is masked; all else is zero."""
    blank: dict[str, NDArray[Any]] = {}
    for spec in config.inputs:
        dtype = NUMPY_DTYPES[spec.dtype]
        if is_token_input(spec):
            blank[spec.name] = np.ones((bucket.rows, bucket.tokens), dtype)
        else:
            blank[spec.name] = np.zeros((bucket.rows, *(max(dim, 1) for dim in spec.dims)), dtype)
    return blank


def warm(
    model: LoadedModel,
    config: ModelConfig,
    buckets: Iterable[Bucket],
    outputs: Sequence[str],
    *,
    repeats: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[Bucket], None] = lambda _: None,
) -> list[tuple[int, float]]:
    """Run every bucket, so that no request meets a shape for the first time; blocks.

    Args:
        model: Just loaded.
        config: Its config.
        buckets: Shapes to run.
        outputs: Names to ask for.
        repeats: Runs a bucket; the first pays for the shape and is not measured.
        clock: Monotonic seconds.
        progress: Called before each bucket.

    Returns:
        Padded tokens and the shortest time of each bucket, for `CostModel.calibrate`.
    """
    points = []
    for bucket in buckets:
        progress(bucket)
        inputs = blank_inputs(config, bucket)
        model.run(inputs, outputs)
        best_s = float("inf")
        for _ in range(repeats):
            started_s = clock()
            model.run(inputs, outputs)
            best_s = min(best_s, clock() - started_s)
        points.append((bucket.padded_tokens, best_s))
    return points
