from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.speech.prompts import read_prompts, some
from server.wire.errors import ConfigError
from tests.server.speech.prompts_folder import install

RECORDED = {name: np.zeros(800, np.int16) for name in ("one-word", "tone", "note", "greeting", "dir/nested")}


def test_what_is_spoken_and_recorded_and_more_than_a_word(tmp_path: Path) -> None:
    prompts = read_prompts("en", install(tmp_path, RECORDED))
    assert [prompt.text for prompt in prompts] == ["Thank you for calling.", "Please press 1: to go on."]
    samples, rate_hz = prompts[0].read()
    assert (len(samples), samples.dtype, rate_hz) == (800, np.int16, 8_000)


def test_the_package_to_install_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="apt-get install asterisk-core-sounds-es-wav asterisk-core-sounds-es"):
        read_prompts("es", tmp_path)
    install(tmp_path, {"other": np.zeros(8, np.int16)})
    with pytest.raises(ConfigError, match="names none of the recordings"):
        read_prompts("en", tmp_path)


def test_a_seed_takes_the_same_ones(tmp_path: Path) -> None:
    sheet = "\n".join(f"p{number}: this is prompt {number}" for number in range(30))
    share = install(tmp_path, {f"p{number}": np.zeros(8, np.int16) for number in range(30)}, sheet=sheet)
    prompts = read_prompts("en", share)
    assert some(prompts, 5, 1) == some(prompts, 5, 1) != some(prompts, 5, 2)
    assert len(some(prompts, 99, 1)) == 30
