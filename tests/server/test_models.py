from __future__ import annotations

import pytest

from server.config.settings import EngineSettings
from server.models import backends_of, inference_settings
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
