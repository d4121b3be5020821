"""The stage table of `graphs/budget.toml`, the contract that metrics, waterfall and gates share."""

from __future__ import annotations

from pathlib import Path

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
        budget = msgspec.toml.decode(path.read_bytes(), type=Budget)
    except FileNotFoundError:
        raise ConfigError("no such file", field=str(path)) from None
    except msgspec.MsgspecError as error:
        raise ConfigError(str(error), field=str(path)) from None
    for stage in STAGES:
        if stage not in budget.stages:
            raise ConfigError("this stage is missing", field=f"{path.name}: stages.{stage}")
    for stage, limit_ms in budget.stages.items():
        if stage not in STAGES:
            raise ConfigError("there is no such stage", field=f"{path.name}: stages.{stage}")
        if limit_ms <= 0:
            raise ConfigError("must be above 0", field=f"{path.name}: stages.{stage}")
    if sum(budget.stages.values()) > budget.total_ms:
        raise ConfigError("is less than the sum of the stages", field=f"{path.name}: total_ms")
    if budget.total_ms > budget.target_ms:
        raise ConfigError("is less than total_ms", field=f"{path.name}: target_ms")
    return budget
