"""One server process of a fleet without models: real doors, calls, feed, Redis log and leases; an engine by script.

python fleet_process.py REDIS_URL PORT        prints its process's port on the fleet's side once it takes connections
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvicorn
import uvloop

from server.app.asgi import Application
from server.app.listen import UvicornServer, bind
from server.auth.desk import TicketDesk
from server.auth.origin import OriginPolicy
from server.auth.tokens import AnonymousAuthenticator
from server.config.settings import FleetSettings, IngestSettings, LogSettings, Settings
from server.feed.directory import CallDirectory
from server.feed.endpoint import FeedEndpoint
from server.feed.transport import DirectProtocol
from server.fleet import fleet_of
from server.ingest.audio_socket import AudioEndpoint
from server.ingest.door import Door
from server.ingest.transcript_socket import TranscriptEndpoint
from server.live import LiveCalls, Stations
from server.log.redis import RedisLog
from server.log.redis_leases import SCRIPTS
from server.metrics import Metrics
from server.speech.scripted import ScriptedRecogniser
from server.wire.codec import json_encoder
from tests.server.live.stations import MemoryOutbox, MemoryStore, OnePolicy, ScriptedOrchestrator


async def main(url: str, port: int) -> None:
    settings = Settings(
        log=LogSettings(backend="redis", url=url, timeout_ms=2000, lease_ms=1500),
        fleet=FleetSettings(worker=1),
        ingest=IngestSettings(resume_grace_s=5.0),
    )
    metrics = Metrics()
    log = RedisLog(url, timeout_s=settings.log.timeout_ms / 1000, scripts=SCRIPTS)
    await log.start()
    fleet = fleet_of(log, settings)
    store = MemoryStore()
    stations = Stations(
        log, MemoryOutbox(), store, ScriptedOrchestrator(), OnePolicy(), metrics, leases=fleet.leases
    )  # fmt: skip
    calls = LiveCalls(stations, max_calls=1000, grace_s=settings.ingest.resume_grace_s)
    authenticator = AnonymousAuthenticator("test", "anna", ("test",))
    origins = OriginPolicy((), is_loopback_only=True)
    directory = CallDirectory(calls, fleet.owners(store))
    door = Door(authenticator, origins, directory)
    audio = AudioEndpoint(calls, ScriptedRecogniser({}), door, settings.ingest, metrics, fleet.relay)
    transcripts = TranscriptEndpoint(calls, door, settings.ingest, metrics, fleet.relay)
    await fleet.start(calls, audio)
    feed = FeedEndpoint(log, fleet.redeemer, metrics, directory=directory, origins=origins)
    desk = TicketDesk(authenticator, fleet.tickets, origins=origins)

    async def web(scope, receive, send):
        body = (await receive()).get("body", b"")
        answer = json_encoder.encode(desk.issue(body))
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": answer})

    async def drain():
        await fleet.leave_calls(calls)
        await asyncio.gather(audio.stop(), transcripts.stop())
        await calls.stop()
        await feed.drain()

    listener = bind("127.0.0.1", port, is_shared=True)
    application = Application(
        {"/v1/feed": feed, "/v1/ingest/transcripts": transcripts, "/v1/ingest/audio": audio}, web
    )  # fmt: skip
    config = uvicorn.Config(
        application,
        loop="none",
        ws=DirectProtocol,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=2,
    )
    server = UvicornServer(config, drain)
    server.on_started = lambda: print(fleet.listeners[0].getsockname()[1], f"{time.time():.3f}", flush=True)
    await server.serve(sockets=[listener, *fleet.listeners])
    await fleet.stop()
    await log.stop()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
