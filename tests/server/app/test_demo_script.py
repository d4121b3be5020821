from __future__ import annotations

from pathlib import Path

import pytest

from server.app.demo_script import Line, Voice, load_script, load_scripts
from server.wire.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    path = folder / "call.yaml"
    path.write_text(text)
    return path


def test_a_script_is_read(tmp_path: Path) -> None:
    script = load_script(
        written(tmp_path, 'agent: {depth: 1.2}\ncustomer: {}\nlines: [{agent: "Hello.", pause_ms: 100}]\n')
    )
    assert script.voices == {"agent": Voice(depth=1.2), "customer": Voice()}
    assert script.lines == (Line("agent", "Hello.", 100),)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("agent: {}\ncustomer: {}\nlines: [{pause_ms: 1}]", r"lines\[0\]"),
        ("agent: {}\ncustomer: {}\nlines: [{agent: a, customer: b, pause_ms: 1}]", r"lines\[0\]"),
        ("agent: {}\ncustomer: {}\nlines: [{agent: a, pause_ms: soon}]", r"lines\[0\]\.pause_ms"),
        ("agent: {volume: 3}\ncustomer: {}\nlines: []", r"agent"),
        ("agent: [", "call.yaml"),
    ],
)
def test_a_wrong_script_names_its_place(tmp_path: Path, text: str, path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        load_script(written(tmp_path, text))


def test_each_shipped_script_has_two_parties_and_two_voices() -> None:
    scripts = load_scripts()
    assert {script.name for script in scripts} >= {"car_service", "retail_bank"}
    for script in scripts:
        assert {line.speaker for line in script.lines} == {"agent", "customer"}
        assert script.voices["agent"] != script.voices["customer"]
