from __future__ import annotations

from pathlib import Path

import pytest

from server.config.load import load_settings
from server.metrics import Metrics
from server.speech.chosen import choose
from server.speech.two_pass import TwoPassRecogniser
from server.wire.errors import ConfigError


def chosen(tmp_path: Path, key: str = "", **environment: str):
    settings = load_settings(None, {f"CUELINE_SPEECH__{name}": value for name, value in environment.items()})
    return choose(settings.speech, tmp_path / "spool", {"DEEPGRAM_API_KEY": key} if key else {}, Metrics())


def names(recogniser) -> list[str]:
    return [one.capabilities.name for one in recogniser._recognisers]


def test_who_serves_and_who_stands_in(tmp_path: Path) -> None:
    assert names(chosen(tmp_path)) == ["embedded"]
    assert names(chosen(tmp_path, "k", RECOGNISER="deepgram")) == ["deepgram", "embedded"]
    assert names(chosen(tmp_path, "k", RECOGNISER="deepgram", FALLBACK="none")) == ["deepgram"]
    own = chosen(tmp_path, RECOGNISER="deepgram", DEEPGRAM__URL="ws://127.0.0.1:8081")
    assert own.capabilities.name == "deepgram"


@pytest.mark.parametrize(
    ("field", "environment"),
    [
        ("DEEPGRAM_API_KEY", {}),
        ("speech.deepgram.url", {"DEEPGRAM__URL": "ws://speech.example.com"}),
        ("speech.deepgram.url", {"DEEPGRAM__URL": "https://speech.example.com"}),
        ("speech.deepgram.url", {"DEEPGRAM__URL": "wss://"}),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, field: str, environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as wrong:
        chosen(tmp_path, RECOGNISER="deepgram", **environment)
    assert wrong.value.field == field


def test_the_key_is_no_setting() -> None:
    with pytest.raises(ConfigError):
        load_settings(None, {"CUELINE_SPEECH__DEEPGRAM__API_KEY": "k"})


def test_a_whisper_without_its_runtime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.speech.chosen.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="extra whisper") as wrong:
        chosen(tmp_path, WHISPER__FOLDER=str(tmp_path))
    assert wrong.value.field == "speech.whisper.folder"


def test_a_whisper_stands_behind_the_embedded_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.speech.chosen.find_spec", lambda name: object())
    (both,) = chosen(tmp_path, WHISPER__FOLDER=str(tmp_path), WHISPER__DEVICE="cuda")._recognisers
    assert isinstance(both, TwoPassRecogniser)
    assert both.capabilities.name == "embedded"
