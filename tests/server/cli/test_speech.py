from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from server.cli import speech as command
from server.cli.speech import speech
from server.speech.scripted import ScriptedRecogniser, spoken
from server.wire.errors import ConfigError
from tests.server.speech.prompts_folder import install


def test_without_prompts_the_packages_are_named(tmp_path: Path) -> None:
    refused = CliRunner().invoke(speech, ["evaluate", "--share", str(tmp_path)])
    assert isinstance(refused.exception, ConfigError)
    assert "apt-get install asterisk-core-sounds-en-wav" in str(refused.exception)


def test_a_language_asked_for_by_name_has_to_be_there(tmp_path: Path) -> None:
    share = install(tmp_path, {"greeting": np.zeros(8_000, np.int16)})
    refused = CliRunner().invoke(speech, ["evaluate", "--share", str(share), "--language", "es"])
    assert "asterisk-core-sounds-es-wav" in str(refused.exception)


def test_a_recogniser_without_its_folder_is_refused(tmp_path: Path) -> None:
    share = install(tmp_path, {"greeting": np.zeros(8_000, np.int16)})
    refused = CliRunner().invoke(speech, ["evaluate", "--share", str(share), "--recogniser", "whisper"])
    assert isinstance(refused.exception, ConfigError)
    assert refused.exception.field == "speech.whisper.folder"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_row_for_each_language_and_recogniser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    share = install(tmp_path, {"greeting": np.zeros(8_000, np.int16)})
    script = {"customer": spoken("thank you for falling", 100, 900)}
    monkeypatch.setattr(command, "embedded", lambda settings, metrics: ScriptedRecogniser(script))
    arguments = ["evaluate", "--share", str(share), "--errors", *(["--json"] if as_json else [])]
    done = CliRunner().invoke(speech, arguments)
    assert done.exit_code == 0, done.output
    assert "heard  thank you for falling" in done.stderr
    if as_json:
        row = json.loads(done.stdout)
        assert (row["language"], row["recogniser"], row["words"], row["word_error_rate"]) == ("en", "embedded", 4, 0.25)
    else:
        assert "25.0" in done.stdout
