"""A whole way in: simulator ─ AWS client library ─ consumer ─ socket ─ audio endpoint ─ a recogniser that remembers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from server.auth.origin import OriginPolicy
from server.auth.tokens import AnonymousAuthenticator
from server.config.settings import ConnectSettings, IngestSettings
from server.ingest.audio_socket import AudioEndpoint
from server.ingest.connect.contacts import Contact
from server.ingest.connect.cursor import CursorFolder
from server.ingest.connect.kvs import KinesisVideo
from server.ingest.connect.listen import listening
from server.ingest.connect.service import ConnectService
from server.ingest.door import Door
from server.metrics import Metrics
from server.simulators.connect.service import KinesisVideoSimulator
from server.simulators.connect.stream import SimulatedStream
from tests.server.ingest.connect.streams import FROM, TO, ZERO_MS, pcm
from tests.server.ingest.fakes import Desk, Ears

ARN = "arn:aws:kinesisvideo:us-east-1:123456789012:stream/connect-contact-1/1"
BLOCK_SAMPLES = 512
TIMEOUT_S = 20.0


class Rig:
    """`async with Rig(folder)`; the call is written by the test."""

    def __init__(self, folder, faults=(), *, chunk_bytes=0, **settings):
        self.ears, self.desk = Ears(), Desk()
        self.metrics = Metrics()
        self.simulator = KinesisVideoSimulator(iter(faults), chunk_bytes=chunk_bytes)
        self.stream = self.simulator.streams[ARN] = SimulatedStream(lambda: ZERO_MS)
        self.endpoint = AudioEndpoint(
            self.desk,
            self.ears,
            Door(AnonymousAuthenticator("car_service"), OriginPolicy(), self.desk),
            IngestSettings(resume_grace_s=TIMEOUT_S),
            Metrics(),
        )
        self._folder = folder
        self._limits = {"stall_s": 0.2, "drain_s": 0.2, "stream_end_s": 0.3} | settings
        self._stack = AsyncExitStack()

    async def __aenter__(self):
        self.simulator.url = await self._stack.enter_async_context(
            listening(self.simulator, "127.0.0.1", 0, field="simulator")
        )
        url = await self._stack.enter_async_context(
            listening(self.endpoint, "127.0.0.1", 0, field="server", ws="websockets-sansio")
        )
        self._stack.push_async_callback(self.endpoint.stop)
        self._settings = ConnectSettings(
            server_url=url.replace("http", "ws", 1), endpoint_url=self.simulator.url, **self._limits
        )
        kinesis = KinesisVideo("us-east-1", self.simulator.url, read_timeout_s=5.0, max_streams=8)
        self.kinesis = await self._stack.enter_async_context(kinesis)
        self.service = self.new_service()
        return self

    async def __aexit__(self, *details):
        await self.service.stop()
        await self._stack.aclose()

    def new_service(self):
        return ConnectService(
            CursorFolder(self._folder), self.kinesis, self._settings, self.metrics, tokens=lambda tenant_id: None
        )

    def contact(self, contact_id="contact-1", **changes):
        values = {"contact_id": contact_id, "stream_arn": ARN, "start_ms": ZERO_MS + 100}
        return Contact(**(values | changes))

    async def speak(self, num_blocks, *, contact_id="contact-1", first=0, tracks=(FROM, TO)):
        """Let a contact's blocks into the stream, a little faster than they are read."""
        for index in range(first, first + num_blocks):
            blocks = [(track, pcm(track, index * BLOCK_SAMPLES)) for track in tracks]
            self.stream.write(contact_id, ZERO_MS + index * 64, blocks)
            await asyncio.sleep(0.001)

    async def heard(self, num_blocks, *, contact_id="contact-1", roles=("customer", "agent")):
        """Wait until so much was heard of each side."""
        async with asyncio.timeout(TIMEOUT_S):
            while any(len(self.ears.heard[contact_id, role]) < num_blocks * BLOCK_SAMPLES for role in roles):
                self.ears.grown.clear()
                await self.ears.grown.wait()

    async def over(self, num_sources):
        """Wait until so many sources were stopped."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.desk.stops) < num_sources:
                self.desk.stopped.clear()
                await self.desk.stopped.wait()

    async def connected(self, num_sessions):
        """Wait until so many `GetMedia` calls were made."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.simulator.selectors) < num_sessions:
                self.simulator.called.clear()
                await self.simulator.called.wait()

    async def finished(self):
        """Wait until nothing is being read."""
        await asyncio.gather(*(reading.task for reading in self.service._readings.values()), return_exceptions=True)

    def assert_whole(self, num_blocks, *, contact_id="contact-1"):
        """Every sample of both sides is there, once, at its place."""
        for track, role in ((FROM, "customer"), (TO, "agent")):
            assert min(self.ears.heard[contact_id, role]) == 0
            assert self.ears.samples(contact_id, role) == pcm(track, 0, num_blocks * BLOCK_SAMPLES)
