"""What `cueline models status` shows of every version: data, and how a folder alone is described."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from inference.errors import ModelError
from inference.life.record import Record, is_set_aside
from inference.life.watch import scan
from inference.repository import ModelRepository

State = Literal[
    "serving",
    "canary",
    "shadow",
    "standby",
    "loading",
    "settling",
    "available",
    "refused",
    "rolled_back",
    "passed_over",
]
"""`standby`: loaded and answers those that pin it, and takes over at a rollback. `available`: in the folder only."""


class AgreementStatus(msgspec.Struct, frozen=True):
    """How often a version in shadow said what the serving one said.

    Attributes:
        rows: Rows compared.
        agreed_ratio: Share of them with the same labels.
        mean_gap: Mean difference of the leading scores.
    """

    rows: int
    agreed_ratio: float
    mean_gap: float


class VersionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One version.

    Attributes:
        version: Its number.
        state: What it does.
        reason: Why it is refused, rolled back or passed over; or what to know about it.
        ratio: Share of the rows (shadow) or calls (canary) that it gets.
        is_proven: Whether it repeated its golden inputs; None while it is not loaded.
        row_ms: Learned time of a lone row of 16 tokens; None while it is not loaded.
        rows: Rows of the last minute.
        failed: Rows of the last minute that it alone failed on.
        slowness: Time of the last minute's batches over what the other version would take; None where none is there.
        pinned: Whether a policy pins it.
        agreement: By output, for shadow.
        shadow_failed: Copies that it failed on.
        shadow_skipped: Copies that were given up for live rows.
    """

    version: int
    state: State
    reason: str = ""
    ratio: float = 0.0
    is_proven: bool | None = None
    row_ms: float | None = None
    rows: int = 0
    failed: int = 0
    slowness: float | None = None
    pinned: bool = False
    agreement: dict[str, AgreementStatus] = {}
    shadow_failed: int = 0
    shadow_skipped: int = 0


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One model.

    Attributes:
        model: Its name.
        serving: Version that answers; None where no server runs and none ever did.
        previous: Version that a rollback returns to.
        probation_s: Seconds left in which the serving version is judged and the previous one kept loaded.
        rollout: What a new version does first; empty where no server runs.
        versions: Newest first.
    """

    model: str
    serving: int | None
    previous: int | None
    probation_s: float
    rollout: str
    versions: list[VersionStatus]


def describe_folder(path: Path, records: Mapping[str, Record]) -> list[ModelStatus]:
    """Say what a server that starts now would find; blocks, reads small files only.

    Args:
        path: The repository.
        records: What earlier servers and commands left.

    Raises:
        ModelError: If the folder is missing.
    """
    repository = ModelRepository.open(path)
    seen = scan(path)
    found = []
    for name in sorted({*repository.models, *repository.broken}):
        record = records.get(name, Record())
        model = repository.models.get(name)
        versions = []
        there = seen.get(name, {})
        would_serve = None
        if model is not None:  # as the engine chooses: what served may be gone, or broken, since
            able = [number for number in model.versions if number not in record.set_aside]
            chosen = model.config.versions.choose(dict.fromkeys(able))
            would_serve = record.serving if record.serving in able else next(iter(chosen), None)
        for number in sorted(there, reverse=True):
            problem: ModelError | None = repository.broken.get(name)
            if model is not None:
                problem = model.problems.get(number)
            aside = record.set_aside.get(number)
            if problem is not None:
                versions.append(VersionStatus(version=number, state="refused", reason=problem.message))
            elif aside is not None and is_set_aside(record, number, there[number]):
                versions.append(VersionStatus(version=number, state=aside.fate, reason=aside.reason))
            elif number == record.candidate and record.stage:
                versions.append(VersionStatus(version=number, state=record.stage, ratio=record.ratio))
            else:
                state: State = "serving" if number == would_serve else "available"
                versions.append(VersionStatus(version=number, state=state))
        found.append(
            ModelStatus(
                model=name,
                serving=would_serve,
                previous=record.previous if record.previous in there else None,
                probation_s=0.0,
                rollout="",
                versions=versions,
            )
        )
    return found
