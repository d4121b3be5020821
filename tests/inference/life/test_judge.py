from __future__ import annotations

from pathlib import Path

import pytest

from inference.cost import CostModel
from inference.errors import ModelError
from inference.health import View
from inference.life.judge import check_timings, fault, has_slowed, seems_slow
from inference.life.settings import LifeSettings
from inference.life.timing import Timing
from inference.plan import Bucket
from inference.repository import ModelRepository, ModelVersion
from tests.inference.life.folders import write_repository

SETTINGS = LifeSettings(max_latency_ratio=3.0, min_rows=50, max_failed_ratio=0.02, max_failed_in_row=5)
COST = CostModel(a_s=0.0001, b_s=0.001)


@pytest.fixture
def version(tmp_path: Path) -> ModelVersion:
    return ModelRepository.open(write_repository(tmp_path / "model_repo")).model("utterance").latest


@pytest.mark.parametrize(("factor", "expected"), [(2.9, False), (3.1, True)])
def test_a_warm_up_seems_slow_above_the_ratio(factor: float, expected: bool) -> None:
    assert seems_slow(CostModel(COST.a_s * factor, COST.b_s * factor), COST, SETTINGS) is expected


def test_nothing_seems_slow_beside_a_version_of_unknown_cost() -> None:
    assert not seems_slow(COST, CostModel(), SETTINGS)


def test_one_slow_shape_is_enough_and_is_named(version: ModelVersion) -> None:
    fair, slow = Timing(Bucket(8, 16), 0.010, 0.010), Timing(Bucket(1, 128), 0.031, 0.010)
    check_timings(version, [fair], SETTINGS)
    with pytest.raises(ModelError, match=r"takes 31\.0 ms for 1 x 128 tokens, the other version 10\.0; allowed is 3"):
        check_timings(version, [fair, slow], SETTINGS)


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (View(rows=100), ""),
        (View(rows=0, failed=5, failed_in_row=5), "5 rows failed one after another"),
        (View(rows=95, failed=5, failed_in_row=1), "5 of 100 rows failed, allowed are 2.0%"),
        (View(rows=30, failed=4, failed_in_row=1), ""),
    ],
)
def test_failures_end_it_at_once_and_few_rows_say_nothing(view: View, reason: str) -> None:
    assert fault(view, SETTINGS) == reason


@pytest.mark.parametrize(("rows", "took_s", "expected"), [(60, 0.1, False), (60, 0.3, True), (40, 0.3, False)])
def test_it_has_slowed_where_enough_batches_took_too_long(rows: int, took_s: float, expected: bool) -> None:
    view = View(rows=rows, batches=20, padded_tokens=600, took_s=took_s)  # 0.08 s by the cost
    assert has_slowed(view, COST, SETTINGS) is expected
