"""A call of a real server and whoever reads its disk: no word, no sound, and without the tenant's key nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
from numpy.typing import NDArray

from server.config.settings import PROJECT_ROOT
from server.replay.feed_client import FeedClient, Received, Refused, Subscribed
from server.replay.recording import read_stereo
from server.replay.replay import Replay
from server.wire.ids import call_channel
from server.wire.publication import Publication
from tests.integration.peers import Dial, utterance
from tests.integration.running import RunningServer, children, serve, wait_until
from tests.server.log.redis_server import redis_server

pytestmark = pytest.mark.slow

DEMO = PROJECT_ROOT / "data" / "demo" / "car_service.wav"
SAID = "my name is Quackenbush and there is a zeppelin on my warning light"
ASKED = "does the warranty cover a marzipan gearbox"
RARE = ("quackenbush", "zeppelin", "marzipan")


def files_of(server: RunningServer) -> Iterator[tuple[str, bytes]]:
    """All that the server keeps in files: in its folders, and in those that it has open without a name."""
    for folder in (server.data, Path(os.environ["TMPDIR"])):
        for path in folder.rglob("*"):
            if path.is_file():
                yield str(path), path.read_bytes()
    for pid in (server.process.pid, *children(server.process.pid)):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if (name := os.readlink(link)).endswith("(deleted)") and link.is_file():
                yield name, link.read_bytes()


def places_of(server: RunningServer, words: list[str], sounds: list[bytes]) -> list[str]:
    """Where any of these is found."""
    secrets = [word.encode() for word in words]
    found = [
        name
        for name, data in files_of(server)
        if any(secret in data.lower() for secret in secrets) or any(sound in data for sound in sounds)
    ]
    return found + [line for line in server.lines if any(word in line.lower() for word in words)]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with serve(tmp_path / "data") as running:
        yield running


async def test_a_live_call_leaves_nothing_in_the_clear_and_nothing_at_all_without_the_key(
    server: RunningServer,
) -> None:
    recording = read_stereo(DEMO)
    speaking = asyncio.create_task(Replay(server.ws, recording, conversation_id="spoken", seconds=12).run())
    async with Dial(server.ws, "/v1/ingest/transcripts") as source, FeedClient(server.ws) as agent:
        events = agent.events()
        await source.send({"type": "start", "conversation_id": "typed"})
        await source.receive_type("started")
        await agent.subscribe(call_channel("typed"))
        async with asyncio.timeout(10):
            while not isinstance(await anext(events), Subscribed):
                pass
        for message in (utterance("u1", SAID[:40], is_final=False), utterance("u1", SAID, 2)):
            await source.send(message)
            await source.receive_type("ack")
        await agent.ask(call_channel("typed"), ASKED)
        report = await speaking
        sentences = [line["text"].lower() for line in report["transcript"] if len(line["text"]) > 15]
        assert sentences
        kept = server.data / "log" / "car_service" / "call:typed.log"
        assert await asyncio.to_thread(wait_until, lambda: kept.exists() and kept.stat().st_size > 500)
        assert places_of(server, [*RARE, *sentences], sounds_of(recording.samples)) == []
        assert [said["text"] for said in server.get("/v1/conversations/typed")["utterances"]] == [SAID]

        destroy = [sys.executable, "-c", "from server.cli import main; main()", "keys", "destroy", "--yes"]
        environment = {**os.environ, "CUELINE_DATA_DIR": str(server.data)}
        await asyncio.to_thread(
            subprocess.run, [*destroy, "--tenant", "car_service"], env=environment, check=True, capture_output=True
        )
        assert await asyncio.to_thread(wait_until, lambda: status(server, "/v1/conversations/typed") == 410, 30.0)
        await agent.subscribe(call_channel("spoken"))
        async with asyncio.timeout(10):
            while not isinstance(refused := await anext(events), Refused):
                pass
        assert refused.error.code == "gone"


async def test_who_hears_all_that_redis_is_told_learns_no_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with redis_server() as redis:
        async with redis.overhearing() as heard:
            environment = {"CUELINE_LOG__BACKEND": "redis", "CUELINE_LOG__URL": redis.url}
            with serve(tmp_path, **environment) as server:
                async with Dial(server.ws, "/v1/ingest/transcripts") as source, FeedClient(server.ws) as agent:
                    await source.send({"type": "start", "conversation_id": "typed"})
                    await source.receive_type("started")
                    events = agent.events()
                    await agent.subscribe(call_channel("typed"))
                    for message in (utterance("u1", SAID[:40], is_final=False), utterance("u1", SAID, 2)):
                        await source.send(message)
                        await source.receive_type("ack")
                    async with asyncio.timeout(10):
                        while not (isinstance(event := await anext(events), Received) and is_said(event.publication)):
                            pass
                    await agent.ask(call_channel("typed"), ASKED)
                    await source.send({"type": "stop"})
                    await source.receive_type("stopped")
                assert places_of(server, list(RARE), []) == []
            said = bytes(heard).lower()
    assert b"call:typed" in said or b"c:typed" in said
    assert [word for word in RARE if word.encode() in said] == []


def is_said(publication: Publication) -> bool:
    return publication.kind == "transcript" and publication.d["text"] == SAID


def sounds_of(samples: NDArray[np.int16]) -> list[bytes]:
    """A stretch of a fiftieth of a second in which somebody speaks, as it came and as each side by itself."""
    start = int(np.abs(samples[:160_000]).sum(axis=1).argmax())
    stretch = samples[start : start + 320]
    return [stretch.tobytes(), *(stretch[:, side].tobytes() for side in (0, 1) if np.ptp(stretch[:, side]) > 1000)]


def status(server: RunningServer, path: str) -> int:
    try:
        server.get(path)
    except HTTPError as error:
        return error.code
    return 200
