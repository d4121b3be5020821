"""What the speech edge adds: a frame on its way to the vendor, a message on its way to the feed, CPU and memory.

The aims at 50 calls on two cores that serve nothing else: 5 ms for a frame and 10 ms for a message at p99, 2 MB a call.
Generator, reader and vendor take a good part of the same cores here, and whoever finds both busy waits for the
scheduler: the latencies are printed. Asserted is what other load on the machine does not change: every frame arrives,
no gap is told, the server's CPU time and memory, and the price of a frame against a bare socket's.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import uvloop
from websockets.asyncio.client import connect

from benchmarks.speech.edge import FRAME_S, FRAME_SAMPLES, RATE_HZ, run_calls, vendor
from server.config.settings import DeepgramSettings
from server.ingest.audio import AudioFormat
from server.ingest.audio_source import AudioSource
from server.metrics import Metrics
from server.speech.deepgram.recogniser import DeepgramRecogniser
from server.speech.recovery.recogniser import RecoveringRecogniser
from server.speech.recovery.settings import RecoverySettings
from tests.integration.running import RunningServer, rss_bytes, serve

_SECONDS = 12
_CALL_BYTES = 2e6


def cpu_s(server: RunningServer) -> float:
    """Fields 14 and 15 behind the name, which may hold spaces. Source: proc(5)."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("calls", [5, 50])
def test_calls_through_a_server(tmp_path, calls: int) -> None:
    with vendor() as peer:
        environment = {
            "CUELINE_SPEECH__RECOGNISER": "deepgram",
            "CUELINE_SPEECH__FALLBACK": "none",
            "CUELINE_SPEECH__DEEPGRAM__URL": peer.url,
            "CUELINE_DEMO__ENABLED": "false",
        }
        with serve(tmp_path, **environment) as server:
            asyncio.run(run_calls(server.ws, 2, 2))  # warm
            peer.samples()
            before_bytes, before_s = rss_bytes(server.process.pid), cpu_s(server)
            edge = asyncio.run(run_calls(server.ws, calls, _SECONDS))
            cores = (cpu_s(server) - before_s) / _SECONDS
            call_bytes = (rss_bytes(server.process.pid) - before_bytes) / calls
            arrived = peer.samples()
            again = round(server.metrics()["cueline_asr_replayed_seconds_total"] * RATE_HZ)
            gaps = sum(
                value for name, value in server.metrics().items() if name.startswith("cueline_gap_seconds_total")
            )
    shares = [50, 95, 99, 100]
    readings = edge.readings
    late = np.percentile(edge.generator_late_ms, shares)
    print(f"\n{calls} calls, {2 * calls} streams of {FRAME_S * 1000:g} ms frames, {_SECONDS} s:", end=" ")
    print(f"server {cores:.2f} cores with annotations, {call_bytes / 1e6:.2f} MB a call")
    for name, row, aim_ms in (
        ("generator late", late, 0),
        ("frame to the vendor", np.percentile(readings.frame, shares), 5),
        ("message to published", np.percentile(readings.published, shares), 0),
        ("message to the reader", np.percentile(readings.delivered, shares), 10),
    ):
        print("  {:22} p50 {:7.2f}  p95 {:7.2f}  p99 {:7.2f}  max {:7.2f} ms".format(name, *row), end="")
        print(f"  aim {aim_ms} at p99" if aim_ms else "")
    assert arrived == 2 * edge.sent * FRAME_SAMPLES + again
    assert len(readings.delivered) >= 2 * calls * (_SECONDS / 2 - 1)
    assert gaps == 0
    assert cores <= 2
    assert call_bytes <= _CALL_BYTES


def test_a_frame_costs_little_more_than_a_bare_socket() -> None:
    """Split, ring, watch, SDK and time limit against `websockets` alone, with the same peer."""
    frame = np.random.default_rng(1).integers(-2_000, 2_000, 320).astype(np.int16)
    mono = frame[::2].tobytes()

    async def bare(url: str) -> float:
        query = "encoding=linear16&sample_rate=8000"
        async with (
            connect(f"{url}/v1/listen?{query}", compression=None) as one,
            connect(f"{url}/v1/listen?{query}", compression=None) as two,
        ):

            async def send() -> None:
                await one.send(mono)
                await two.send(mono)

            return await _cpu_us(send)

    async def ours(url: str) -> float:
        vendor_side = DeepgramRecogniser(DeepgramSettings(url=url), "")
        recogniser = RecoveringRecogniser([vendor_side], RecoverySettings(), Metrics())
        layout = AudioFormat("linear16", RATE_HZ, ("customer", "agent"))
        source = AudioSource("t", "c", "en", layout, _Nobody(), recogniser)  # type: ignore[arg-type]
        await source.open()
        data = frame.tobytes()
        taken_us = await _cpu_us(lambda: source.feed(data, 0.0))
        await source.close()
        await recogniser.stop()
        return taken_us

    with vendor() as peer:
        bare_us = min(uvloop.run(bare(peer.url)) for _ in range(3))
        ours_us = min(uvloop.run(ours(peer.url)) for _ in range(3))
    print(f"\nCPU a stereo frame: bare sockets {bare_us:.0f} us, through the edge {ours_us:.0f} us", end=" ")
    print(f"({ours_us / bare_us:.2f} times); 50 calls need {ours_us * 50 / 20_000:.2f} cores for it")
    assert ours_us <= 3.5 * bare_us


async def _cpu_us(send: Callable[[], Awaitable[None]], frames: int = 2_000) -> float:
    """CPU time of one call, microseconds."""
    started_s = time.process_time()
    for number in range(frames):
        await send()
        if number % 5 == 0:
            await asyncio.sleep(0)
    return (time.process_time() - started_s) / frames * 1e6


class _Nobody:
    """A call that nobody follows."""

    keyterms = ()

    def resume_ms(self) -> int:
        return 0

    async def on_speech(self, *_: object) -> None:
        pass

    async def stored(self, covered_ms: int) -> None:
        pass
