"""The stage table of `graphs/budget.toml`, the contract that metrics, waterfall and gates share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from server.wire.clock import STAGES
from server.wire.errors import ConfigError


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds a stage may take at p95.

    Attributes:
        total_ms: All stages together.
        target_ms: What the agent is promised, speech to guidance.
        stages: Stage name to milliseconds, in the order of the data.
    """

    total_ms: float
    target_ms: float
    stages: dict[str, float]


def load_budget(graphs: Path) -> Budget:
    """Read `budget.toml`.

    Raises:
        ConfigError: Missing, unreadable, a stage missing or unknown, or limits that contradict each other.
    """
    path = graphs / "budget.toml"
    try:
        table = msgspec.toml.decode(path.read_bytes())
        _check_numbers(table, path.name)
        budget = msgspec.convert(table, Budget)
    except FileNotFoundError:
        raise ConfigError("no such file", field=str(path)) from None
    except msgspec.MsgspecError as error:
        raise ConfigError(str(error), field=path.name) from None
    for stage in STAGES:
        if stage not in budget.stages:
            raise ConfigError("this stage is missing", field=f"{path.name}: stages.{stage}")
    for stage in budget.stages:
        if stage not in STAGES:
            raise ConfigError("there is no such stage", field=f"{path.name}: stages.{stage}")
    if sum(budget.stages.values()) > budget.total_ms:
        raise ConfigError("is less than the sum of the stages", field=f"{path.name}: total_ms")
    if budget.total_ms > budget.target_ms:
        raise ConfigError("is less than total_ms", field=f"{path.name}: target_ms")
    return budget


def _check_numbers(section: dict[str, Any], path: str) -> None:
    """Whatever stands in the table is a number of milliseconds, or a section of them."""
    for key, value in section.items():
        here = f"{path}.{key}" if ":" in path else f"{path}: {key}"
        if isinstance(value, dict):
            _check_numbers(value, here)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConfigError("has to be a number of milliseconds above 0", field=here)
