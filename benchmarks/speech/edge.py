"""Calls in real time through a real server to a vendor, and what the server's edge adds on the way there and back.

    generator ─▶ /v1/ingest/audio ─▶ server ─▶ vendor      frame: read from our socket (T1) → in the vendor's (T2)
    reader    ◀─ /v1/feed ◀───────── server ◀─ vendor      message: received (T3) → published (T4) → at the reader

Open loop: frames leave on a fixed schedule whatever the server does. Generator, reader, server and vendor are four
processes on one machine; the stamps are the server's own, because on few cores the vendor's queue would be counted as
ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.speech.reader import Readings
from server.config.settings import PROJECT_ROOT

RATE_HZ = 8_000
FRAME_S = 0.02
FRAME_SAMPLES = int(RATE_HZ * FRAME_S)


class Vendor:
    """The process that `vendor.py` describes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self.url = process.stdout.readline().strip()

    def samples(self) -> int:
        """Samples it heard since it was asked last."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("samples\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def vendor() -> Iterator[Vendor]:
    """Start the vendor's process and stop it at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.speech.vendor"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT_ROOT,
    )
    try:
        yield Vendor(process)
    finally:
        process.communicate(timeout=20)


@dataclass(frozen=True)
class Edge:
    """What one run took.

    Attributes:
        sent: Frames sent, each with both sides of a call.
        generator_late_ms: `[sent]` how late the generator itself was.
        readings: What the reader measured.
    """

    sent: int
    generator_late_ms: np.ndarray
    readings: Readings


async def run_calls(url: str, calls: int, seconds: float) -> Edge:
    """Stream some calls for a while and follow their feeds."""
    ids = [f"edge-{time.monotonic_ns()}-{number}" for number in range(calls)]
    sockets: list[ClientConnection] = []
    reader = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.speech.reader", url, *ids),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
        cwd=PROJECT_ROOT,
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    try:
        assert (await reader.stdout.readline()).strip() == b"ready"
        sockets = [await _open(url, name) for name in ids]
        drains = [asyncio.create_task(_drain(socket)) for socket in sockets]
        late_ms = await _stream(sockets, seconds)
        for socket in sockets:
            await socket.send('{"type":"stop"}')
        await asyncio.gather(*drains)
    finally:
        reader.stdin.close()
        told = await reader.stdout.readline()
        await reader.wait()
        for socket in sockets:
            await socket.close()
    return Edge(len(late_ms), np.array(late_ms), msgspec.json.decode(told, type=Readings))


async def _open(url: str, conversation_id: str) -> ClientConnection:
    socket = await connect(f"{url}/v1/ingest/audio", compression=None)
    start = {
        "type": "start",
        "conversation_id": conversation_id,
        "encoding": "linear16",
        "sample_rate_hz": RATE_HZ,
        "layout": "stereo",
        "roles": ["customer", "agent"],
    }
    await socket.send(json.dumps(start))
    await socket.recv()
    return socket


async def _stream(sockets: list[ClientConnection], seconds: float) -> list[float]:
    """Send each call's frames on its own schedule, all calls spread evenly over a frame."""
    frame = np.random.default_rng(1).integers(-2_000, 2_000, (FRAME_SAMPLES, 2)).astype(np.int16)
    data = frame.tobytes()
    late_ms = []
    start_s = time.monotonic() + 0.5
    for number in range(int(seconds / FRAME_S)):
        for index, socket in enumerate(sockets):
            due_s = start_s + (number + index / len(sockets)) * FRAME_S
            delay_s = due_s - time.monotonic()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            late_ms.append((time.monotonic() - due_s) * 1000)
            await socket.send(data)
    return late_ms


async def _drain(socket: ClientConnection) -> None:
    async for _ in socket:
        pass
