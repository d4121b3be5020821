"""Speech to recognise: a short call rendered once a run by the embedded voices, with the times of its lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from server.app.demo_script import DemoScript, Line, Voice
from server.app.render import render_demo_call
from server.wire.ids import Speaker

LINES = (
    Line("agent", "How can I help you today?", 700),
    Line("customer", "A warning light came on in my car this morning.", 600),
    Line("agent", "I can get you in tomorrow at nine.", 800),
    Line("customer", "How much is this going to cost me?", 600),
)


@dataclass(frozen=True, slots=True)
class RenderedCall:
    """Both sides at 8 kHz, `[samples] int16`, and the true `(start_ms, end_ms, text)` of each side's lines."""

    sides: dict[Speaker, npt.NDArray[np.int16]]
    turns: dict[Speaker, list[tuple[int, int, str]]]


@pytest.fixture(scope="session")
def call(tmp_path_factory: pytest.TempPathFactory) -> RenderedCall:
    voices: dict[Speaker, Voice] = {"agent": Voice(depth=1.2), "customer": Voice()}
    folder: Path = tmp_path_factory.mktemp("speech")
    path = render_demo_call(DemoScript("short", voices, LINES, "0"), folder)
    samples, _ = soundfile.read(path, dtype="int16")
    turns: dict[Speaker, list[tuple[int, int, str]]] = {"customer": [], "agent": []}
    for turn in json.loads((folder / "short.json").read_text())["turns"]:
        turns[turn["speaker"]].append((turn["start_ms"], turn["end_ms"], turn["text"]))
    return RenderedCall({"customer": samples[:, 0].copy(), "agent": samples[:, 1].copy()}, turns)
