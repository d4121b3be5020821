"""From publications and the times they arrived to the report of `cueline replay`. Pure.

Speech end is the end of the last evidence utterance on the audio clock. Actions that fired from an interim are
counted apart: they come before their utterance ends, so "after the end" means nothing for them. Source: DESIGN 13.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from server.wire.clock import STAGES, Stamps, stage_durations_ms
from server.wire.publication import Publication

LATENCIES = (
    "speech_to_interim",
    "speech_end_to_final",
    "final_to_action",
    "speech_end_to_action",
    "speech_end_to_interim_action",
)


def summarise(values: list[float]) -> dict[str, float | int | None]:
    """Count, percentiles and maximum over single observations; all null without any."""
    if not values:
        return {"n": 0, "p50": None, "p95": None, "p99": None, "max": None}
    p50, p95, p99 = (round(float(p), 1) for p in np.percentile(values, (50, 95, 99)))
    return {"n": len(values), "p50": p50, "p95": p95, "p99": p99, "max": round(max(values), 1)}


@dataclass(slots=True)
class _Utterance:
    speaker: str
    start_ms: int
    end_ms: int
    text: str = ""
    is_final: bool = False
    final_received_s: float | None = None
    has_interim: bool = False


@dataclass(slots=True)
class ReplayReport:
    """Collects one call.

    Attributes:
        conversation_id: The call.
        is_real_time: The audio was streamed at its own speed, so audio time can be compared with arrival.
        zero_s: Monotonic time at which audio time 0 was spoken.
        clock_offset_ms: Server wall clock minus ours.
    """

    conversation_id: str
    is_real_time: bool = True
    zero_s: float = 0.0
    clock_offset_ms: float = 0.0
    num_interims: int = 0
    num_lost: int = 0
    is_ended: bool = False
    _last: tuple[str, int] | None = None
    _utterances: dict[str, _Utterance] = field(default_factory=dict)
    _gaps: set[str] = field(default_factory=set)
    _latencies: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in LATENCIES})
    _stages: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    _pending: list[tuple[dict[str, Any], float]] = field(default_factory=list)
    _guidance: list[dict[str, Any]] = field(default_factory=list)
    _finals: set[str] = field(default_factory=set)

    def add(self, publication: Publication, received_s: float, received_ms: float) -> None:
        """Take one publication of the call's channel.

        Args:
            publication: Decoded.
            received_s: Monotonic time of its receipt.
            received_ms: Wall time of its receipt, our clock.
        """
        if self._last is not None and publication.ep == self._last[0]:
            if publication.off <= self._last[1]:
                return
            self.num_lost += publication.off - self._last[1] - 1
        self._last = (publication.ep, publication.off)
        if publication.t.t8 is not None:
            self._stages["socket"].append(received_ms + self.clock_offset_ms - publication.t.t8)
        payload: dict[str, Any] = publication.d
        match publication.kind:
            case "transcript":
                self._add_transcript(payload, publication.t, received_s)
            case "annotation":
                self._add_stages(publication.t, payload["utterance_id"] in self._finals)
            case "action":
                if payload["state"] == "new":
                    self._pending.append((payload, received_s))
            case "gap":
                self._gaps.add(f"{payload['speaker']}/{payload['from_ms']}")
            case "call":
                self.is_ended = payload["state"] == "ended"

    def _add_transcript(self, payload: dict[str, Any], stamps: Stamps, received_s: float) -> None:
        utterance = self._utterances.setdefault(
            payload["utterance_id"], _Utterance(payload["speaker"], payload["start_ms"], payload["end_ms"])
        )
        utterance.end_ms = payload["end_ms"]
        utterance.text = payload["text"]
        if not payload["is_final"]:
            self.num_interims += 1
            if not utterance.has_interim:
                utterance.has_interim = True
                self._latency("speech_to_interim", received_s, utterance.start_ms)
            return
        utterance.is_final = True
        utterance.final_received_s = received_s
        self._finals.add(payload["utterance_id"])
        self._latency("speech_end_to_final", received_s, utterance.end_ms)
        self._add_stages(stamps, is_final=True)

    def _latency(self, name: str, received_s: float, audio_ms: float) -> None:
        if self.is_real_time:
            self._latencies[name].append((received_s - self.zero_s) * 1000 - audio_ms)

    def _add_stages(self, stamps: Stamps, is_final: bool) -> None:
        if not is_final:
            return
        for stage, duration_ms in stage_durations_ms(stamps).items():
            # An annotation repeats the stamps of its transcript; those stages were counted with it.
            if stamps.t7 is None or stage in ("orchestrator", "inference", "publish"):
                self._stages[stage].append(duration_ms)

    def _settle(self) -> None:
        """Actions against their evidence, once all of it is known."""
        for payload, received_s in self._pending:
            evidence = payload.get("evidence", [])
            known = [self._utterances[e["utterance_id"]] for e in evidence if e["utterance_id"] in self._utterances]
            at_ms = (received_s - self.zero_s) * 1000
            if known:
                last = max(known, key=lambda utterance: utterance.end_ms)
                if not self.is_real_time:
                    at_ms = last.end_ms
                if all(e.get("is_final", True) for e in evidence):
                    self._latency("speech_end_to_action", received_s, last.end_ms)
                    if last.final_received_s is not None:
                        self._latencies["final_to_action"].append((received_s - last.final_received_s) * 1000)
                else:
                    self._latency("speech_end_to_interim_action", received_s, last.end_ms)
            self._guidance.append(
                {
                    "id": payload["id"],
                    "type": payload["type"],
                    "title": payload["title"],
                    "at_ms": round(at_ms),
                    "evidence": [{"utterance_id": e["utterance_id"], "text": e["text"]} for e in evidence],
                }
            )
        self._pending.clear()

    def build(self) -> dict[str, Any]:
        """The report as DESIGN 13 prints it."""
        self._settle()
        finals = sorted(
            (u for u in self._utterances.values() if u.is_final and u.text), key=lambda u: (u.start_ms, u.speaker)
        )
        return {
            "conversation_id": self.conversation_id,
            "utterances": len(finals),
            "interims": self.num_interims,
            "actions": len(self._guidance),
            "gaps": len(self._gaps),
            "feed_lost": self.num_lost,
            "latency_ms": {name: summarise(values) for name, values in self._latencies.items()},
            "stages_ms": {stage: summarise(values) for stage, values in self._stages.items()},
            "transcript": [
                {"speaker": u.speaker, "start_ms": u.start_ms, "end_ms": u.end_ms, "text": u.text} for u in finals
            ],
            "guidance": self._guidance,
        }


publication_decoder = msgspec.json.Decoder(Publication)
