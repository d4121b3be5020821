from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.batching import BatchingSettings
from inference.life.timing import side_by_side
from inference.plan import Bucket
from inference.repository import ModelRepository, ModelVersion
from inference.service import Service
from tests.inference.life.folders import write_repository
from tests.inference.manual_clock import Clock


@dataclass
class Timed:
    """A model whose runs take given times, over and over."""

    clock: Clock
    times_s: list[float]
    name: str
    log: list[str]
    preferred_slots: int = 1
    is_exact: bool = True
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def run(self, inputs: Any, outputs: Any, deadline_s: float = 0.0) -> Any:
        self.clock.now_s += self.times_s[len(self.shapes) % len(self.times_s)]
        self.shapes.append(inputs["input_ids"].shape)
        self.log.append(self.name)
        return {name: np.zeros((1, 1)) for name in outputs}

    def unload(self) -> None: ...


@pytest.fixture
def version(tmp_path: Path) -> ModelVersion:
    return ModelRepository.open(write_repository(tmp_path / "model_repo")).model("utterance").latest


def test_each_shape_gives_the_least_of_runs_that_take_turns(version: ModelVersion) -> None:
    clock, log = Clock(), list[str]()
    noisy = Timed(clock, [0.5, 0.002, 0.9], "candidate", log)
    steady = Timed(clock, [0.001], "serving", log)
    sides = [Service(version, model, BatchingSettings()) for model in (noisy, steady)]
    timings = side_by_side(*sides, clock)
    assert [(timing.takes_s, timing.known_s) for timing in timings] == [
        (pytest.approx(0.002), pytest.approx(0.001))
    ] * len(timings)
    assert log == ["candidate", "serving"] * (len(log) // 2)
    assert noisy.shapes == steady.shapes
    longest = sides[0].ladder.max_tokens
    assert {timing.shape for timing in timings} == {
        Bucket(min(rows, sides[0].ladder.max_rows(min(tokens, longest))), min(tokens, longest))
        for rows, tokens in ((1, 16), (8, 16), (1, 128))
    }
