"""One server process without models: real doors, calls, feed, log and leases, and a store; an engine by script.

python -m tests.integration.fleet_process '{"redis": URL, "port": N, …}'        see `Life`

It prints its process's port on the fleet's side (its port, where it has none) once it takes connections.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
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
from server.ingest.adapters import audiohook, lca, twilio
from server.ingest.adapters.endpoint import AdapterEndpoint, carry_on
from server.ingest.audio_socket import AudioEndpoint
from server.ingest.carried_source import Way
from server.ingest.door import Door
from server.ingest.transcript_socket import TranscriptEndpoint
from server.keys.keyring import Keyring
from server.keys.local import LocalKeys
from server.live import LiveCalls, Stations
from server.live.leftover import adopt_leftovers
from server.log.embedded import EmbeddedLog, LogLimits
from server.log.redis import RedisLog
from server.log.redis_leases import SCRIPTS
from server.metrics import Metrics
from server.store.outbox import Outbox, OutboxLimits
from server.store.sql import SqlStore
from server.wire.codec import json_encoder
from server.wire.ids import TenantId
from tests.integration.seconds import Seconds
from tests.server.live.stations import MemoryOutbox, MemoryStore, OnePolicy, ScriptedOrchestrator


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """How one process lives.

    Attributes:
        port: Where it listens; others may listen there, too.
        redis: URL of the shared log; empty: a log of its own in `data`.
        host: Where it listens, and where others of the fleet reach it.
        data: Folder of outbox and log; empty: the outbox forgets, and nothing is known of earlier lives.
        store: URL of the database; empty: SQLite in `data`.
        keys: Folder of the tenants' keys; empty: nothing is sealed.
        timeout_ms: What Redis may take to answer.
        max_outbox_bytes: Disk that the outbox may use.
    """

    port: int
    redis: str = ""
    host: str = "127.0.0.1"
    data: str = ""
    keys: str = ""
    store: str = ""
    timeout_ms: int = 2000
    max_outbox_bytes: int = 1024**3


async def main(life: Life, tell: Callable[[str], None]) -> None:
    log_settings = LogSettings(backend="embedded", timeout_ms=life.timeout_ms, lease_ms=1500)
    if life.redis:
        log_settings = msgspec.structs.replace(log_settings, backend="redis", url=life.redis)
    settings = Settings(
        log=log_settings,
        fleet=FleetSettings(worker=1, host=life.host),
        ingest=IngestSettings(resume_grace_s=5.0),
    )
    metrics = Metrics()
    keys = Keyring(LocalKeys(Path(life.keys))) if life.keys else None
    if keys is not None:
        await keys.prepare(TenantId("test"))
    log: RedisLog | EmbeddedLog
    if life.redis:
        log = RedisLog(life.redis, timeout_s=life.timeout_ms / 1000, scripts=SCRIPTS, keys=keys)
    else:
        log = EmbeddedLog(Path(life.data) / "log", limits=LogLimits(linger_s=0.002), keys=keys)
    await log.start()
    store, outbox = MemoryStore(), MemoryOutbox()
    if life.data:
        store = SqlStore(life.store or f"sqlite+aiosqlite:///{life.data}/cueline.db", keys=keys)
        await store.start()
        limits = OutboxLimits(max_disk_bytes=life.max_outbox_bytes, retry_cap_s=0.5)
        outbox = Outbox(Path(life.data) / "outbox", store, limits=limits, keys=keys)
        await outbox.start()
    fleet = fleet_of(log, settings)
    stations = Stations(log, outbox, store, ScriptedOrchestrator(), OnePolicy(), metrics, leases=fleet.leases)
    calls = LiveCalls(stations, max_calls=1000, grace_s=settings.ingest.resume_grace_s)
    authenticator = AnonymousAuthenticator("test", "anna", ("test",))
    origins = OriginPolicy((), is_loopback_only=life.host == "127.0.0.1")
    directory = CallDirectory(calls, fleet.owners(store))
    door = Door(authenticator, origins, directory, fleet.passes)
    recogniser = Seconds()
    audio = AudioEndpoint(calls, recogniser, door, settings.ingest, metrics, fleet.relay)
    transcripts = TranscriptEndpoint(calls, door, settings.ingest, metrics, fleet.relay)
    protocols = {
        lca.PATH: lca.LcaAdapter(authenticator, fleet.redeemer),
        twilio.PATH: twilio.TwilioAdapter(settings.ingest.twilio, authenticator),
        audiohook.PATH: audiohook.AudioHookAdapter(settings.ingest.audiohook, authenticator),
    }
    way = Way(calls, recogniser, fleet.relay, metrics)
    adapters = {
        path: AdapterEndpoint(adapter, way, door, origins, settings.ingest) for path, adapter in protocols.items()
    }
    await fleet.start(calls, [audio, *adapters.values()])
    leftovers = None
    if not fleet.leases.is_shared:
        leftovers = asyncio.create_task(adopt_leftovers(calls, store, outbox, ("test",)))
    feed = FeedEndpoint(log, fleet.redeemer, metrics, directory=directory, origins=origins)
    desk = TicketDesk(authenticator, fleet.tickets, origins=origins)

    async def web(scope, receive, send):
        body = (await receive()).get("body", b"")
        answer = json_encoder.encode(desk.issue(body))
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": answer})

    async def drain():
        await fleet.leave_calls(calls)
        await asyncio.gather(*(one.stop() for one in (audio, transcripts, *adapters.values())))
        await calls.stop()
        await feed.drain()

    listener = bind(life.host, life.port, is_shared=True)
    application = Application(
        {"/v1/feed": feed, "/v1/ingest/transcripts": transcripts, "/v1/ingest/audio": audio, **adapters}, web
    )
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
    linger = partial(carry_on, tuple(adapters.values()), settings.fleet.drain_s)
    server = UvicornServer(config, drain, linger, private=fleet.listeners)
    private = fleet.listeners[0][0].getsockname()[1] if fleet.listeners else life.port
    own = bind(life.host, 0)  # leads to this process, while the shared port leads to any
    server.on_started = lambda: tell(f"{private} {own.getsockname()[1]} {time.time():.3f}")
    await server.serve(sockets=[listener, own])
    if leftovers is not None:
        leftovers.cancel()
    await fleet.stop()
    if life.data:
        await outbox.stop()
        await store.stop()
    await log.stop()


def let_the_clock_jump() -> None:
    """SIGUSR1 sets this process's wall clock an hour forward, SIGUSR2 two hours back."""
    real, real_ns, offset_s = time.time, time.time_ns, 0

    def jump(number: int, _: object) -> None:
        nonlocal offset_s
        offset_s += 3600 if number == signal.SIGUSR1 else -7200

    time.time = lambda: real() + offset_s
    time.time_ns = lambda: real_ns() + offset_s * 10**9
    signal.signal(signal.SIGUSR1, jump)
    signal.signal(signal.SIGUSR2, jump)


def live(life: Life, told: Connection) -> None:
    """In a process of its own."""
    let_the_clock_jump()
    uvloop.run(main(life, told.send))


if __name__ == "__main__":
    uvloop.run(main(msgspec.json.decode(sys.argv[1], type=Life), lambda text: print(text, flush=True)))
