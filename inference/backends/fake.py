"""A weightless backend for tests: outputs follow from the tokens alone, times and failures from a script.

A row's outputs are the mean of fixed pseudo-random vectors of its tokens, so equal texts have equal outputs in any
company, and similar texts have similar ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.backends.contract import LoadedModel, Tensors, is_token_input
from inference.model_config import ModelConfig
from inference.repository import ModelVersion

Script = Callable[[Tensors], None]
"""Called at the start of every run, in its thread: may block on an event, or raise."""

_VOCABULARY = 1 << 16


def _do_nothing(_: Tensors) -> None: ...


@dataclass(slots=True)
class FakeBackend:
    """Loads nothing.

    Attributes:
        script: See `Script`.
        slots: Batches that run at the same time.
        is_exact: Whether shapes stay as they are.
        runs: Rows, tokens and outputs of every run so far, warm-up included.
    """

    script: Script = _do_nothing
    slots: int = 1
    is_exact: bool = True
    runs: list[tuple[int, int, tuple[str, ...]]] = field(default_factory=list)
    name: str = "fake"

    def load(self, version: ModelVersion) -> LoadedModel:
        """Take any version."""
        return _FakeModel(self, version.config)


class _FakeModel:
    def __init__(self, backend: FakeBackend, config: ModelConfig) -> None:
        self._backend = backend
        self._config = config
        self._tables = {spec.name: _table(spec.name, spec.size) for spec in config.outputs}

    @property
    def is_exact(self) -> bool:
        return self._backend.is_exact

    @property
    def preferred_slots(self) -> int:
        return self._backend.slots

    def run(self, inputs: Tensors, outputs: Sequence[str], deadline_s: float = math.inf) -> Tensors:
        first = next(iter(inputs.values()))
        self._backend.runs.append((first.shape[0], first.shape[1], tuple(outputs)))
        self._backend.script(inputs)
        features = self._features(inputs)
        results = {}
        for name in outputs:
            rows = features @ self._tables[name]
            if name == "embedding":
                rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
            results[name] = rows.astype(np.float32)
        return results

    def unload(self) -> None: ...

    def _features(self, inputs: Tensors) -> NDArray[np.float64]:
        """Return `[rows, features]`: the masked mean of the tokens' vectors, or the dense inputs side by side."""
        tokens = [inputs[spec.name] for spec in self._config.inputs if is_token_input(spec)]
        if not tokens:
            dense = np.concatenate([array.reshape(len(array), -1) for array in inputs.values()], axis=1)
            return dense @ _random("dense", (dense.shape[1], _FEATURES))
        ids, mask = tokens[0], tokens[1] if len(tokens) > 1 else np.ones_like(tokens[0])
        weights = (mask / np.maximum(mask.sum(axis=1, keepdims=True), 1)).astype(np.float64)
        vectors = _TOKENS[np.asarray(ids) % _VOCABULARY]
        # Summed token by token, so that padding and company cannot change the rounding.
        total = np.zeros((len(ids), _FEATURES))
        for position in range(ids.shape[1]):
            total += vectors[:, position] * weights[:, position : position + 1]
        return total


_FEATURES = 16


def _random(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=shape)


def _table(name: str, width: int) -> NDArray[Any]:
    return _random(name, (_FEATURES, width)) * 2.0


_TOKENS = _random("tokens", (_VOCABULARY, _FEATURES))
