"""Amazon Connect end to end, with real processes: one consumer dies in the middle of a call, the other goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from server.config.settings import PROJECT_ROOT
from server.ingest.connect.listen import listening
from server.replay.recording import Recording, read_stereo
from server.simulators.connect.command import ARN, disconnected, flow_event, stream_recording, tell
from server.simulators.connect.service import KinesisVideoSimulator
from server.simulators.connect.stream import SimulatedStream
from server.wire.clock import wall_ms
from tests.integration.peers import collect, is_ended

pytestmark = pytest.mark.slow

SECONDS = 9
START_TIMEOUT_S = 60.0


class Consumer:
    """`cueline connect-kvs` in its own process."""

    def __init__(self, data, server_url, endpoint_url):
        self.url = ""
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from server.cli import main; main()",
                "connect-kvs",
                "--port",
                "0",
                "--url",
                server_url,
                "--endpoint-url",
                endpoint_url,
            ],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=os.environ
            | {"CUELINE_DATA_DIR": str(data), "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            if "contact events" in line:
                self.url = line.split()[-1].removesuffix("/v1/connect/events")
                self._ready.set()
        self._ready.set()

    async def ready(self):
        await asyncio.to_thread(self._ready.wait, START_TIMEOUT_S)
        assert self.url, "the consumer did not start"

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(timeout=20)
        self._reader.join(timeout=5)
        self.process.stderr.close()


@contextlib.contextmanager
def consumers(*arguments, count: int) -> Iterator[list[Consumer]]:
    started = [Consumer(*arguments) for _ in range(count)]
    try:
        yield started
    finally:
        for consumer in started:
            consumer.stop()


async def test_a_call_outlives_the_process_that_reads_it(server, tmp_path):
    whole = read_stereo(PROJECT_ROOT / "data" / "demo" / "car_service.wav")
    recording = Recording(whole.sample_rate_hz, whole.samples[: SECONDS * whole.sample_rate_hz])
    simulator = KinesisVideoSimulator()
    stream = simulator.streams[ARN] = SimulatedStream(wall_ms)
    async with listening(simulator, "127.0.0.1", 0, field="port") as simulator.url:
        with consumers(tmp_path, server.ws, simulator.url, count=2) as (first, second):
            await first.ready()
            await second.ready()
            zero_ms = round(wall_ms())
            await tell(first.url, None, flow_event("handed-over", zero_ms, stream.next_number, "anna"))
            playing = asyncio.create_task(stream_recording(stream, recording, "handed-over", zero_ms))
            async with asyncio.timeout(20):
                await simulator.called.wait()
                await stream.fragment(4)  # four seconds into the call
            first.stop(signal.SIGKILL)
            await playing
            await tell(second.url, None, disconnected("handed-over"))
            publications = await collect(server.ws, "handed-over", is_ended, timeout_s=40.0)
    finals = [p.d for p in publications if p.kind == "transcript" and p.d["is_final"] and p.d["text"]]
    said = " ".join(final["text"].lower() for final in finals)
    assert "thank you for calling" in said
    assert said.count("thank you for calling") == 1
    assert max(final["end_ms"] for final in finals) > (SECONDS - 3) * 1000
    assert not [p for p in publications if p.kind == "gap"]
    assert simulator.selectors[-1]["StartSelectorType"] == "CONTINUATION_TOKEN"
