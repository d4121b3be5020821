"""Streams the demo call into a recogniser in real time, as a switch does, and measures what comes out.

Open loop: each 20 ms block is sent when its time has come, however far the recogniser is. A lag is counted from the
moment at which the block with the sample in question was sent, which is the stage `asr` of the budget (T1 to T3).
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from server.app.demo_script import load_scripts
from server.app.render import CHANNELS, RATE_HZ, render_demo_call
from server.speech.contract import Final, Interim, SpeechCall, SpeechStarted, SpeechStream
from server.speech.embedded import EmbeddedRecogniser
from server.wire.ids import ConversationId, TenantId

BLOCK_MS = 20
_BLOCK = RATE_HZ * BLOCK_MS // 1000
_STAGGER_S = 2.3
"""Between the starts of calls, so that they do not pause at the same instants."""


@dataclass(slots=True)
class Lags:
    """Milliseconds, one entry an event.

    Attributes:
        first_interim: From the block with the first voiced sample to the first text.
        interim: From the block with the last sample an interim covers to that interim.
        final: From the block with the last voiced sample to the final.
    """

    first_interim: list[float] = field(default_factory=list)
    interim: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run took.

    Attributes:
        lags: Of all streams together.
        cores: CPU time of the workers over wall time.
        worker_bytes: Resident memory of each worker.
    """

    lags: Lags
    cores: float
    worker_bytes: list[int]


def demo_recording(folder: Path) -> npt.NDArray[np.int16]:
    """The car service's demo call, `[samples, 2] int16`, rendered into a folder if it is not there."""
    script = next(script for script in load_scripts() if script.name == "car_service")
    samples: npt.NDArray[np.int16] = soundfile.read(render_demo_call(script, folder), dtype="int16")[0]
    return samples


async def play_calls(
    recogniser: EmbeddedRecogniser, recording: npt.NDArray[np.int16], calls: int, stagger_s: float = _STAGGER_S
) -> Outcome:
    """Play some calls at once, both sides of each; calls begin apart, so that they do not pause together."""
    lags = Lags()
    cpu_s, started_s = _cpu_s(recogniser), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for call in range(calls):
            for channel, speaker in enumerate(CHANNELS):
                side = SpeechCall(
                    tenant_id=TenantId("bench"),
                    conversation_id=ConversationId(f"call-{call}"),
                    speaker=speaker,
                    sample_rate_hz=RATE_HZ,
                )
                stream = await recogniser.open(side)
                group.create_task(_play(stream, recording[:, channel].copy(), call * stagger_s, lags))
    cores = (_cpu_s(recogniser) - cpu_s) / (time.monotonic() - started_s)
    return Outcome(lags, cores, [_resident_bytes(pid) for pid in recogniser.worker_pids])


async def _play(stream: SpeechStream, samples: npt.NDArray[np.int16], delay_s: float, lags: Lags) -> None:
    await asyncio.sleep(delay_s)
    sent_s: list[float] = []
    listener = asyncio.create_task(_listen(stream, sent_s, lags))
    started_s = time.monotonic()
    for first in range(0, len(samples), _BLOCK):
        await asyncio.sleep(started_s + (first + _BLOCK) / RATE_HZ - time.monotonic())
        sent_s.append(time.monotonic())
        await stream.send(samples[first : first + _BLOCK].tobytes())
    await stream.close()
    await listener


async def _listen(stream: SpeechStream, sent_s: list[float], lags: Lags) -> None:
    def lag_ms(audio_ms: int) -> float:
        block = min(len(sent_s) - 1, max(0, audio_ms - 1) // BLOCK_MS)
        return (time.monotonic() - sent_s[block]) * 1000

    onset_ms: int | None = None
    async for event in stream.events():
        match event:
            case SpeechStarted(at_ms):
                onset_ms = at_ms
            case Interim():
                lags.interim.append(lag_ms(event.end_ms))
                if onset_ms is not None:
                    lags.first_interim.append(lag_ms(onset_ms))
                    onset_ms = None
            case Final():
                lags.final.append(lag_ms(event.end_ms))


def _cpu_s(recogniser: EmbeddedRecogniser) -> float:
    ticks = 0
    for pid in recogniser.worker_pids:
        # Fields 14 and 15, counted behind the name, which may hold spaces. Source: proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
