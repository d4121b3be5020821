"""The engine's and the models' sections of the settings, as what `inference` is built of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from inference.backends.contract import Backend
from inference.backends.guarded import GuardedBackend
from inference.backends.onnxruntime import CPU, CUDA, OnnxRuntimeBackend, OnnxRuntimeSettings
from inference.engine import Engine
from inference.engine import EngineSettings as InferenceSettings
from inference.life.keeper import Keeper
from inference.life.settings import LifeSettings
from inference.life.trial import ProcessTrial
from server.config.settings import EngineSettings, Settings
from server.metrics.models import ModelMetrics
from server.wire.errors import ConfigError


def inference_settings(settings: EngineSettings) -> InferenceSettings:
    """Return how the engine runs."""
    return InferenceSettings(
        device=settings.device,
        precision=settings.precision,
        workers=settings.workers,
        max_queue_rows=settings.max_queue_rows,
        max_batch_tokens=settings.max_batch_tokens,
        max_wait_s=settings.max_wait_ms / 1000,
    )


def keeper_of(
    settings: Settings, engine: Engine, data: Path, inference: InferenceSettings, observer: ModelMetrics
) -> Keeper:
    """Return who keeps the versions of the models, not started."""
    models = settings.models
    runs_here = settings.engine.backend == "onnxruntime" or settings.engine.fallback
    return Keeper(
        engine,
        Path(settings.paths.model_repo),
        data / "models.json",  # of all workers, which so follow each other
        LifeSettings(
            poll_s=models.poll_s,
            settle_s=models.settle_s,
            rollout=models.rollout,
            shadow_ratio=models.shadow_ratio,
            canary_ratio=models.canary_ratio,
            probation_s=models.probation_s,
            max_load_s=models.max_load_s,
            min_rows=models.min_rows,
            max_failed_ratio=models.max_failed_ratio,
            max_latency_ratio=models.max_latency_ratio,
        ),
        trial=ProcessTrial(inference) if models.trial and runs_here else None,
        observer=observer,
    )


def backends_of(settings: EngineSettings) -> Mapping[str, Backend] | None:
    """Return where models run, by name; None: what the engine chooses for its device.

    Raises:
        ConfigError: If the client of a Triton is not installed, or its address is none.
    """
    if settings.backend == "onnxruntime":
        return None
    try:
        from inference.backends.triton import TritonBackend  # its client is an extra
    except ImportError as error:
        raise ConfigError("needs the extra triton: requirements/triton.lock", field="engine.backend") from error
    fallback = None
    if settings.fallback:
        provider = CUDA if settings.device == "cuda" else CPU
        fallback = OnnxRuntimeBackend(OnnxRuntimeSettings(provider))
    try:
        remote = TritonBackend(settings.triton_url)
    except ValueError as error:
        raise ConfigError(str(error), field="engine.triton_url") from None
    return {remote.name: GuardedBackend(remote, fallback, timeout_s=settings.triton_timeout_ms / 1000)}
