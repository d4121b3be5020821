from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from server.app.demo_script import DemoScript, Line, Voice
from server.app.render import render_demo_call

pytestmark = pytest.mark.slow

LINES = (Line("agent", "Good morning.", 500), Line("customer", "Hello there.", 300))


def script(digest: str = "1") -> DemoScript:
    return DemoScript("short", {"agent": Voice(depth=1.2), "customer": Voice()}, LINES, digest)


def test_each_party_has_a_channel_and_each_line_its_time(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    path = render_demo_call(script(), tmp_path / "demo", lambda done, total: progress.append((done, total)))
    assert progress == [(1, 2), (2, 2)]
    samples, rate_hz = soundfile.read(path)
    assert rate_hz == 8_000
    assert samples.shape[1] == 2
    agent, customer = json.loads((tmp_path / "demo" / "short.json").read_text())["turns"]
    assert agent["start_ms"] == 500
    assert customer["start_ms"] - agent["end_ms"] == pytest.approx(300, abs=1)
    for turn, own, other in ((agent, 1, 0), (customer, 0, 1)):
        said = samples[turn["start_ms"] * 8 : turn["end_ms"] * 8]
        assert np.sqrt((said[:, own] ** 2).mean()) > 0.01
        assert np.sqrt((said[:, other] ** 2).mean()) < 0.002


def test_it_sounds_like_a_telephone(tmp_path: Path) -> None:
    samples, _ = soundfile.read(render_demo_call(script(), tmp_path))
    power = np.abs(np.fft.rfft(samples[:, 1])) ** 2
    frequency_hz = np.fft.rfftfreq(len(samples), 1 / 8_000)
    inside = power[(frequency_hz > 300) & (frequency_hz < 3_400)].mean()
    assert power[frequency_hz < 150].mean() < inside / 100
    assert power[frequency_hz > 3_600].mean() < inside / 100


def test_the_same_script_gives_the_same_bytes_and_is_rendered_once(tmp_path: Path) -> None:
    first = render_demo_call(script(), tmp_path / "a")
    again = render_demo_call(script(), tmp_path / "b")
    assert first.read_bytes() == again.read_bytes()
    before = first.stat().st_mtime_ns
    assert render_demo_call(script(), tmp_path / "a").stat().st_mtime_ns == before
    render_demo_call(script("2"), tmp_path / "a")
    assert first.stat().st_mtime_ns > before


@pytest.mark.parametrize("damage", ["{", "[]", '{"fingerprint": 3}'])
def test_a_render_that_was_broken_off_is_made_again(tmp_path: Path, damage: str) -> None:
    path = render_demo_call(script(), tmp_path)
    (tmp_path / "short.json").write_text(damage)
    before = path.stat().st_mtime_ns
    render_demo_call(script(), tmp_path)
    assert path.stat().st_mtime_ns > before
