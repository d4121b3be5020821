"""What the versions of one model do, put together from the record, the engine and the folder. Reads nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from inference.engine import Engine
from inference.life.record import Record, is_set_aside
from inference.life.settings import LifeSettings
from inference.life.shadow import Shadow
from inference.life.status import AgreementStatus, ModelStatus, State, VersionStatus

_PROBE_TOKENS = 16


def describe(
    model: str,
    record: Record,
    engine: Engine,
    settings: LifeSettings,
    *,
    seen: Mapping[int, str],
    settled: Mapping[int, str],
    loaded: Mapping[int, str],
    loading: Collection[int],
    pinned: Collection[int],
    shadow: Shadow | None,
    probation_s: float,
    now_s: float,
) -> ModelStatus:
    """Describe one model.

    Args:
        model: Its name.
        record: Who serves, who is on trial, who is set aside.
        engine: What is loaded and how it does.
        settings: Of the keeper.
        seen: Versions in the folder, with fingerprints.
        settled: Those of them whose files are quiet.
        loaded: Versions that were loaded, with the fingerprints of what they were read from.
        loading: Versions being loaded.
        pinned: Versions that policies pin.
        shadow: Of the candidate.
        probation_s: Left of the serving version's probation.
        now_s: Monotonic.
    """
    in_memory = set(engine.versions(model))

    def state_of(number: int) -> tuple[State, str]:
        if number == record.serving:
            return "serving", since_loaded(number)
        if number == record.candidate and record.stage:
            return record.stage, since_loaded(number)
        if number in loading:
            return "loading", ""
        aside = record.set_aside.get(number)
        if aside is not None and is_set_aside(record, number, seen.get(number, "")):
            return aside.fate, aside.reason
        if number in in_memory:
            return "standby", since_loaded(number)
        return ("available", "") if number in settled else ("settling", "its files are not quiet yet")

    def since_loaded(number: int) -> str:
        if number not in seen:
            return "its folder is gone"
        if seen[number] != loaded.get(number, seen[number]):
            return (
                "files of it or of its model changed since it was loaded; what was loaded answers until the next start"
            )
        return ""

    def version(number: int) -> VersionStatus:
        state, reason = state_of(number)
        is_candidate = number == record.candidate
        status = VersionStatus(
            version=number,
            state=state,
            reason=reason,
            ratio=record.ratio if is_candidate else 0.0,
            pinned=number in pinned,
        )
        if number not in in_memory:
            return status
        service = engine.service(model, number)
        health = engine.health.view((model, number), now_s)
        other = record.serving if is_candidate else record.previous
        slowness = None
        if other is not None and other in in_memory and other != number and health.batches:
            slowness = round(health.slowness(engine.service(model, other).cost), 2)
        compared = shadow if is_candidate else None
        return VersionStatus(
            version=number,
            state=state,
            reason=reason,
            ratio=status.ratio,
            is_proven=service.is_proven,
            row_ms=round(service.cost.predict_s(_PROBE_TOKENS) * 1000.0, 3),
            rows=health.rows,
            failed=health.failed,
            slowness=slowness,
            pinned=status.pinned,
            agreement={} if compared is None else _agreements(compared),
            shadow_failed=0 if compared is None else compared.failed,
            shadow_skipped=0 if compared is None else compared.skipped,
        )

    numbers = sorted({*seen, *in_memory}, reverse=True)
    return ModelStatus(
        model=model,
        serving=record.serving,
        previous=record.previous,
        probation_s=round(probation_s, 1),
        rollout=settings.rollout,
        versions=[version(number) for number in numbers],
    )


def _agreements(shadow: Shadow) -> dict[str, AgreementStatus]:
    return {
        name: AgreementStatus(agreement.rows, round(agreement.ratio, 4), round(agreement.mean_gap, 4))
        for name, agreement in sorted(shadow.agreements.items())
    }
