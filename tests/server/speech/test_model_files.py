from __future__ import annotations

from pathlib import Path

import pytest

from server.speech import model_files
from server.speech.model_files import locate
from server.wire.errors import ConfigError


def test_the_installed_weights_are_the_measured_ones() -> None:
    files = locate("", "")
    assert (files.moonshine_folder / "encoder_model.ort").is_file()
    assert files.silero_path.is_file()


def test_a_folder_of_the_operator_is_taken_as_it_is(tmp_path: Path) -> None:
    for name in ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"):
        (tmp_path / name).write_bytes(b"other weights")
    assert locate(str(tmp_path), "").moonshine_folder == tmp_path


def test_a_missing_file_names_the_setting_and_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"speech\.moonshine_folder: .* holds no encoder_model\.ort"):
        locate(str(tmp_path), "")
    with pytest.raises(ConfigError, match=r"speech\.silero_folder: .* holds no silero_vad\.onnx"):
        locate("", str(tmp_path))


def test_other_weights_in_the_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "silero_vad.onnx").write_bytes(b"another version")
    monkeypatch.setattr(model_files, "_packaged", lambda source: tmp_path)
    with pytest.raises(ConfigError, match=r"silero_vad\.onnx is not the one of silero-vad==6\.2\.3"):
        model_files._folder(model_files._SILERO, "")


def test_a_missing_package_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"speech\.moonshine_folder: package moonshine-voice==0\.0\.73"):
        locate("", "")
