"""Made-up calls and sentences in tests/data/policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.wire.ids import Speaker
from server.wire.publication import Action
from tests.server.policy.encoder import ROOT
from tests.server.policy.script import ScriptedCall, near, utterance

DATA = ROOT / "tests" / "data" / "policy"
POLICIES = ROOT / "graphs" / "policies"
NEGATIVES = POLICIES / "general_negatives.txt"
TENANTS = ("car_service", "retail_bank")


@dataclass(frozen=True)
class Line:
    start_s: float
    end_s: float
    speaker: Speaker
    text: str
    cards: list[str]
    claims: dict[str, Any]


def _rows(name: str) -> list[list[str]]:
    lines = (DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.split("|")] for line in lines if line and not line.startswith("#")]


def speaker_of(cell: str) -> Speaker:
    return "agent" if cell == "agent" else "customer"


def call(tenant: str) -> list[Line]:
    lines = []
    for times, speaker, text, cards, scripted in _rows(f"call_{tenant}"):
        start_s, end_s = map(float, times.split())
        claims: dict[str, Any] = {}
        for claim in scripted.split():
            output, _, value = claim.partition("=")
            label, _, score = value.partition(":")
            if output == "moments":
                claims[output] = near(label, score=float(score))
            else:
                claims[output] = {"label": label, "score": float(score)}
        lines.append(Line(start_s, end_s, speaker_of(speaker), text, cards.split(), claims))
    return lines


def sentences(name: str) -> list[tuple[str, Speaker, str]]:
    """Moment (`-` for none), speaker and text."""
    return [(moment, speaker_of(speaker), text) for moment, speaker, text in _rows(name)]


def play(running: ScriptedCall, lines: list[Line], claims_of: Any) -> list[list[str]]:
    """Play a call with an interim at every fourth word; the new cards of each line, and of the silence before it."""
    shown = []
    for index, line in enumerate(lines):
        before = len(running.actions)
        words = line.text.split()
        cuts = [*range(4, len(words), 4), len(words)]
        for revision, cut in enumerate(cuts, start=1):
            text = " ".join(words[:cut])
            spoken = utterance(
                f"u{index}",
                text,
                start_s=line.start_s,
                end_s=line.start_s + (line.end_s - line.start_s) * cut / len(words),
                speaker=line.speaker,
                revision=revision,
                final=cut == len(words),
            )
            running.say(spoken, **claims_of(line, text))
        new = [payload for payload in running.actions[before:] if payload.state == "new"]
        shown.append([action.id for action in new if isinstance(action, Action)])
    return shown
