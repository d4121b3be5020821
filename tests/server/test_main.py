from __future__ import annotations

import pytest

from server.config.settings import EngineSettings
from server.main import _backends
from server.wire.errors import ConfigError


def test_models_run_in_process_by_default() -> None:
    assert _backends(EngineSettings()) is None


def test_a_triton_is_guarded() -> None:
    pytest.importorskip("tritonclient.grpc", reason="needs requirements/triton.lock")
    backends = _backends(EngineSettings(backend="triton", triton_url="127.0.0.1:8001"))
    assert backends is not None
    assert list(backends) == ["triton"]


def test_a_wrong_address_is_named_by_its_path() -> None:
    pytest.importorskip("tritonclient.grpc", reason="needs requirements/triton.lock")
    with pytest.raises(ConfigError) as refused:
        _backends(EngineSettings(backend="triton", triton_url="http://127.0.0.1:8000"))
    assert refused.value.field == "engine.triton_url"
