from __future__ import annotations

from pathlib import Path

import pytest

from inference.engine import Engine
from inference.life.file import write_records
from inference.life.record import Record
from inference.repository import ModelRepository
from server.config.settings import EngineSettings, FleetSettings, Settings
from server.metrics import Metrics
from server.metrics.models import ModelMetrics
from server.models import backends_of, inference_settings, keeper_of
from server.wire.errors import ConfigError


def test_models_run_in_process_by_default() -> None:
    assert backends_of(EngineSettings()) is None


def test_a_triton_is_guarded() -> None:
    pytest.importorskip("tritonclient.grpc", reason="needs requirements/triton.lock")
    backends = backends_of(EngineSettings(backend="triton", triton_url="127.0.0.1:8001"))
    assert backends is not None
    assert list(backends) == ["triton"]


def test_a_wrong_address_is_named_by_its_path() -> None:
    pytest.importorskip("tritonclient.grpc", reason="needs requirements/triton.lock")
    with pytest.raises(ConfigError) as refused:
        backends_of(EngineSettings(backend="triton", triton_url="http://127.0.0.1:8000"))
    assert refused.value.field == "engine.triton_url"


def test_the_engine_runs_as_the_settings_say() -> None:
    made = inference_settings(EngineSettings(device="cuda", precision="fp16", workers=3, max_wait_ms=20))
    assert (made.device, made.precision, made.workers, made.max_wait_s) == ("cuda", "fp16", 3, 0.02)


def test_all_workers_of_a_server_keep_their_versions_in_one_file(tmp_path: Path) -> None:
    write_records(tmp_path / "models.json", {"utterance": Record(serving=2)})
    for worker in (0, 1, 2):
        settings = Settings(data_dir=str(tmp_path), fleet=FleetSettings(worker=worker))
        engine = Engine(ModelRepository(tmp_path))
        keeper = keeper_of(
            settings, engine, settings.data_path, inference_settings(settings.engine), ModelMetrics(Metrics())
        )
        assert keeper.wishes["utterance"].serving == 2
