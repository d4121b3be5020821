"""Other systems' clients against the real server: what they say becomes transcript."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from websockets.asyncio.client import connect

from server.config.settings import PROJECT_ROOT
from server.ingest.audio import AudioFormat
from server.replay.recording import read_stereo
from tests.integration.peers import collect, is_ended
from tests.server.ingest.adapters.conformance import FRAME_MS, Dialect, encode
from tests.server.ingest.adapters.test_audiohook import AudioHookDialect
from tests.server.ingest.adapters.test_lca import LcaDialect
from tests.server.ingest.adapters.test_twilio import TwilioDialect

pytestmark = pytest.mark.slow

SECONDS = 6
"""Of the demo call: the agent's greeting."""


@pytest.mark.parametrize(
    "dialect", [LcaDialect(), TwilioDialect(), AudioHookDialect()], ids=["lca", "twilio", "audiohook"]
)
async def test_what_is_said_becomes_transcript(server, dialect: Dialect):
    conversation_id = f"spoken-{type(dialect).__name__}"
    async with connect(server.ws + dialect.path, compression=None) as socket:
        for frame in dialect.start(conversation_id):
            await socket.send(frame)
        for index, (customer, agent) in enumerate(_greeting()):
            sides = (_encoded(dialect.encoding, side) for side in (customer, agent))
            for frame in dialect.audio(conversation_id, index, *sides):
                await socket.send(frame)
        for frame in dialect.end(conversation_id):
            await socket.send(frame)
        async with asyncio.timeout(20):
            await socket.wait_closed()
    publications = await collect(server.ws, conversation_id, is_ended)
    said = [p.d["text"].lower() for p in publications if p.kind == "transcript" and p.d["is_final"]]
    assert any("thank you for calling" in text for text in said)


def test_lca_clients_find_their_health_check(server):
    assert server.get("/health/check") == {"Http-Status": 200, "Healthy": True}


def _greeting():
    recording = read_stereo(PROJECT_ROOT / "data" / "demo" / "car_service.wav")
    samples = recording.samples[: recording.sample_rate_hz * SECONDS]
    # To 8 kHz by leaving out: good enough for a greeting, and no filter of ours in between.
    samples = samples[:: recording.sample_rate_hz // 8000]
    step = 8000 * FRAME_MS // 1000
    return [(part[:, 0], part[:, 1]) for part in (samples[at : at + step] for at in range(0, len(samples), step))]


def _encoded(encoding, samples) -> bytes:
    return encode(encoding, samples) if encoding == "linear16" else _mulaw(samples)


def _mulaw(samples) -> bytes:
    """G.711 compression, by looking for the next code."""
    expanded = AudioFormat("mulaw", 8000, ("customer",)).split(bytes(range(256)))[0]
    order = np.argsort(expanded)
    return order[np.clip(np.searchsorted(expanded[order], samples), 0, 255)].astype(np.uint8).tobytes()
