"""The composition root: builds every room from the configuration, starts them in the order of the data, and stops
them the other way round. Nothing else wires rooms together.

    start   log · store · outbox (what an earlier life left is drained first) · engine · policies · recogniser · sockets
    stop    sources are sent away and their last words stored · calls end · feeds are told to come back · the rest
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket as sockets
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from inference.engine import Engine
from inference.errors import InferenceError
from inference.life.loader import Pin
from inference.repository import ModelRepository
from retrieval.manifest import EngineEmbedder, encoder_identity
from server.app.api import ApiDependencies, build_api
from server.app.asgi import Application
from server.app.http import PatientProtocol
from server.app.listen import UvicornServer, bind
from server.app.tls import Renewal, tls_context
from server.audit.log import AuditLog
from server.auth.claims import ClaimRules
from server.auth.desk import TicketDesk
from server.auth.identity import Identity
from server.auth.key_set import KeySet
from server.auth.origin import OriginPolicy
from server.auth.tokens import AnonymousAuthenticator, Authenticator, KeySetAuthenticator, SharedKeyAuthenticator
from server.config.budget import load_budget
from server.config.folder import make_folder
from server.config.settings import Settings
from server.feed.directory import CallDirectory
from server.feed.endpoint import FeedEndpoint
from server.feed.receipts import Receipts
from server.feed.socket import Commands
from server.feed.transport import DirectProtocol
from server.fleet import Fleet, fleet_of
from server.heap import settle
from server.ingest.adapters import audiohook, lca, twilio
from server.ingest.adapters.contract import Adapter
from server.ingest.adapters.endpoint import AdapterEndpoint, carry_on
from server.ingest.audio_socket import AudioEndpoint
from server.ingest.carried_source import Way
from server.ingest.door import Door
from server.ingest.transcript_socket import TranscriptEndpoint
from server.keys.choice import open_provider
from server.keys.keyring import Keyring
from server.knowledge.endpoint import open_writer
from server.knowledge.library import Library, LiveEmbedder
from server.live import LiveCalls, Stations
from server.live.attendance import watch as watch_attendance
from server.live.leftover import adopt_leftovers
from server.live.policies import Policies
from server.log.contract import ChannelKey
from server.log.embedded import EmbeddedLog, LogLimits
from server.metrics import Metrics
from server.metrics.engine import EngineMetrics
from server.metrics.loop import watch_loop
from server.metrics.models import ModelCollector, ModelMetrics
from server.models import backends_of, inference_settings, keeper_of
from server.orchestrator import Orchestrator
from server.orchestrator.graphs import config_error, offers, read_graphs
from server.privacy.erasure import Erasure
from server.privacy.places import CachePlace, EventLogPlace
from server.privacy.retention import Retention
from server.replay.demo import DemoPlayer
from server.speech.chosen import choose
from server.speech.contract import Recogniser
from server.store.outbox import Outbox
from server.store.sql import SqlStore
from server.wire.errors import ConfigError
from server.wire.feed import Ask
from server.wire.ids import TenantId
from server.wire.publication import Notice

if TYPE_CHECKING:
    from server.log.redis import RedisLog

log = logging.getLogger(__name__)

GRACEFUL_STOP_S = 10
Progress = Callable[[str], None]


class Server:
    """One process. `run` serves until it is told to stop.

    Args:
        settings: Checked configuration.
        progress: Told what is being started, for the command line.
    """

    def __init__(self, settings: Settings, progress: Progress = lambda _: None) -> None:
        self._settings = settings
        self._progress = progress
        self._is_ready = False
        self._started_s = time.monotonic()
        self._stack = AsyncExitStack()
        self.metrics = Metrics()
        self.url = ""

    @property
    def is_ready(self) -> bool:
        """Warm and accepting."""
        return self._is_ready

    def status(self) -> dict[str, Any]:
        """Public state, for `/v1/status`."""
        return {
            "ready": self._is_ready,
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "recogniser": self._recogniser.capabilities.name,
            "features": {"ask": True, "say": False},
            "backends": {name: asdict(status) for name, status in self._engine.stats().backends.items()},
        }

    async def run(self, *, dry_run: bool = False, on_listening: Callable[[str], None] = lambda _: None) -> None:
        """Start everything, serve, stop everything.

        Args:
            dry_run: Load, warm and stop without listening.
            on_listening: Told the address once it answers.

        Raises:
            ConfigError: Something configured is wrong; nothing was left running.
        """
        async with self._stack:
            # First of all: what is wrong with these should be told at once, not after the models are loaded.
            tls = self._settings.tls
            context = tls_context(tls) if tls.certificate else None
            listener = (
                None
                if dry_run
                else bind(self._settings.host, self._settings.port, is_shared=self._settings.fleet.worker > 0)
            )
            if listener is not None:
                self._stack.callback(listener.close)
            application = await self._build()
            settle()
            if listener is not None:
                await self._listen(application, listener, context, on_listening)

    # -- start --------------------------------------------------------------------------------------------------

    async def _build(self) -> Application:
        settings, metrics = self._settings, self.metrics
        data = settings.data_path
        make_folder(settings.private_path)
        graphs_folder = Path(settings.paths.graphs)
        budget = load_budget(graphs_folder)

        self._progress("store and event log")
        key_provider = await open_provider(settings.keys, data)
        self._stack.push_async_callback(key_provider.close)
        keyring = Keyring(key_provider)
        event_log = _event_log(settings, data, keyring)
        await event_log.start()
        self._stack.push_async_callback(event_log.stop)
        store = SqlStore(
            settings.store.url or f"sqlite+aiosqlite:///{data / 'cueline.db'}",
            password=settings.store.password,
            max_connections=settings.store.max_connections,
            statement_timeout_s=settings.store.statement_timeout_ms / 1000,
            keys=keyring,
        )
        await store.start()
        self._stack.push_async_callback(store.stop)
        outbox = Outbox(settings.private_path / "outbox", store, keys=keyring, on_notice=_tell)
        metrics.outbox_records.set_function(lambda: outbox.waiting_records)
        await outbox.start()
        self._stack.push_async_callback(outbox.stop)

        self._progress("models and speech")
        graphs = read_graphs(graphs_folder)
        try:
            inference = inference_settings(settings.engine)
            engine = Engine(
                ModelRepository.open(settings.paths.model_repo),
                inference,
                observer=EngineMetrics(metrics),
                backends=backends_of(settings.engine),
            )
            keeper = keeper_of(settings, engine, data, inference, ModelMetrics(metrics))
            # Side by side: the recogniser loads in processes of its own, and starting is what a person waits for.
            recogniser = choose(settings.speech, settings.private_path / "spool", os.environ, metrics)
            hearing = asyncio.create_task(recogniser.start(), name="speech-start")
            self._stack.push_async_callback(_stop, recogniser, hearing)
            self._recogniser = recogniser
            await engine.start(wishes=keeper.wishes)
            self._stack.push_async_callback(engine.stop)
            await keeper.start()
            self._stack.push_async_callback(keeper.stop)
        except InferenceError as error:
            raise config_error(error) from error
        metrics.registry.register(ModelCollector(keeper.status, lambda: engine.stats().backends))
        self._engine = engine
        repository = engine.repository
        orchestrator = Orchestrator(engine, graphs, settings.engine)
        policies = Policies(
            graphs_folder / "policies",
            offers(graphs, repository),
            orchestrator,
            metrics,
            keeper,
            cache=settings.private_path / "examples",
        )
        keeper.add_consumer(policies)
        await policies.start()
        self._stack.push_async_callback(policies.stop)
        for tenant in policies.tenants:
            await keyring.prepare(TenantId(tenant))
        self._own(keyring.watch(lambda: policies.tenants), "keys")

        self._progress("knowledge bases")
        encoder = encoder_identity(repository)
        keeper.add_consumer(Pin((encoder.model, encoder.version)))  # the indexes hold its vectors
        searching = LiveEmbedder(engine, encoder)
        library = Library(data, Path(settings.paths.knowledge), searching, EngineEmbedder(engine, encoder))
        writer = open_writer(settings.generation, os.environ, searching, metrics, self._stack)
        self._stack.push_async_callback(library.stop)
        await library.start(lambda: policies.bases)
        await hearing

        self._progress("sockets")
        authenticator = await self._authenticator(policies.tenants)
        origins = OriginPolicy(settings.auth.allowed_origins, is_loopback_only=settings.auth.is_anonymous)
        fleet = fleet_of(event_log, settings)
        self._stack.push_async_callback(fleet.stop)
        self._private = fleet.listeners
        tickets = fleet.tickets
        calls = LiveCalls(
            Stations(event_log, outbox, store, orchestrator, policies, metrics, library, fleet.leases, writer),
            max_calls=settings.ingest.max_calls,
            grace_s=settings.ingest.resume_grace_s,
        )
        audit = AuditLog(settings.private_path / "audit")
        await audit.start()
        self._stack.push_async_callback(audit.stop)
        forget = engine.forget_words
        places = (EventLogPlace(event_log), CachePlace("predictions", forget, fleet.everywhere(forget)))
        erasure = Erasure(store, outbox, fleet, audit, places)
        self._own(Retention(erasure, store, policies.transcript_days).run(), "retention")
        directory = CallDirectory(calls, fleet.owners(store), fleet.presence)
        door = Door(authenticator, origins, directory, fleet.passes, keyring.is_destroyed)
        audio = AudioEndpoint(calls, recogniser, door, settings.ingest, metrics, fleet.relay)
        transcripts = TranscriptEndpoint(calls, door, settings.ingest, metrics, fleet.relay)
        protocols: dict[str, Adapter] = {
            lca.PATH: lca.LcaAdapter(authenticator, fleet.redeemer),
            twilio.PATH: twilio.TwilioAdapter(settings.ingest.twilio, authenticator),
            audiohook.PATH: audiohook.AudioHookAdapter(settings.ingest.audiohook, authenticator),
        }
        way = Way(calls, recogniser, fleet.relay, metrics)
        adapters = {
            path: AdapterEndpoint(adapter, way, door, origins, settings.ingest) for path, adapter in protocols.items()
        }
        await fleet.start(calls, (audio, *adapters.values()))
        if not fleet.leases.is_shared:
            self._own(adopt_leftovers(calls, store, outbox, policies.tenants), "leftovers")

        receipts = Receipts(fleet, event_log, store, outbox, metrics)

        async def on_ask(_: Identity, key: ChannelKey, ask: Ask) -> None:
            await fleet.ask(key.tenant_id, key.channel.partition(":")[2], ask.text)

        def on_follow(identity: Identity, key: ChannelKey, is_allowed: bool) -> None:
            audit.follow(identity, key.channel, is_allowed=is_allowed)

        feed = FeedEndpoint(
            event_log,
            fleet.redeemer,
            metrics,
            directory=directory,
            presence=fleet.presence,
            commands=Commands(on_receipt=receipts.take, on_ask=on_ask, on_follow=on_follow),
            origins=origins,
        )
        self._drain = _drainer((audio, transcripts, *adapters.values()), calls, feed, fleet)
        self._carry = partial(carry_on, tuple(adapters.values()), settings.fleet.drain_s)
        demo = None
        if settings.demo.enabled and settings.auth.is_anonymous:
            demo = DemoPlayer(lambda: self.url, data / "demo")
            self._stack.push_async_callback(demo.stop)
        web = build_api(
            ApiDependencies(
                authenticator=authenticator,
                tickets=TicketDesk(authenticator, tickets, origins=origins),
                origins=origins,
                store=store,
                directory=directory,
                presence=fleet.presence,
                audit=audit,
                erasure=erasure,
                metrics=metrics,
                budget=budget,
                health=self,
                models=keeper,
                knowledge=library,
                demo=demo,
                metrics_key=settings.auth.metrics_key,
            ),
            version(),
        )
        self._own(watch_loop(metrics), "loop-watch")
        if not settings.auth.is_anonymous:  # where nobody signs in, nobody is missing
            self._own(watch_attendance(calls, fleet.presence, event_log, metrics), "attendance")
        return Application(
            {"/v1/feed": feed, "/v1/ingest/audio": audio, "/v1/ingest/transcripts": transcripts, **adapters},
            web,
        )

    async def _authenticator(self, tenants: tuple[str, ...]) -> Authenticator:
        auth = self._settings.auth
        rules = ClaimRules(auth.claims_prefix, auth.issuer, auth.audience)
        if auth.is_anonymous:
            if auth.default_tenant not in tenants:
                raise ConfigError(f"has no policy; there are {', '.join(tenants)}", field="auth.default_tenant")
            return AnonymousAuthenticator(auth.default_tenant, auth.default_agent, tenants)
        if auth.shared_key:
            return SharedKeyAuthenticator(auth.shared_key, rules)
        keys = KeySet(auth.jwks)
        await keys.start()
        self._stack.push_async_callback(keys.stop)
        return KeySetAuthenticator(keys, rules)

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run something until the server stops; that it ends before is loud."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.critical("a background task died", extra={"task": name}, exc_info=error)

        async def end() -> None:
            task.cancel()
            await asyncio.wait([task])

        task = asyncio.create_task(work, name=name)
        task.add_done_callback(ended)
        self._stack.push_async_callback(end)

    # -- serve --------------------------------------------------------------------------------------------------

    async def _listen(
        self,
        application: Application,
        listener: sockets.socket,
        context: ssl.SSLContext | None,
        on_listening: Callable[[str], None],
    ) -> None:
        host, port = listener.getsockname()[:2]
        if context is not None:
            self._own(Renewal(context, self._settings.tls).run(), "tls-renewal")
        self.url = f"http{'s' if context else ''}://{f'[{host}]' if ':' in host else host}:{port}"
        web = UvicornServer(
            uvicorn.Config(
                application,
                loop="none",
                http=PatientProtocol,
                ws=DirectProtocol,
                ws_max_size=2 * 1024 * 1024,
                ws_per_message_deflate=False,
                # The feed has its own ping; telephony sources show life by sending audio.
                ws_ping_interval=None,
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=GRACEFUL_STOP_S,
                ssl_context_factory=None if context is None else lambda *_: context,
            ),
            before_shutdown=self._shut,
            linger=self._carry,
            private=self._private,
        )

        def listening() -> None:
            self._is_ready = True
            on_listening(self.url)

        web.on_started = listening
        await web.serve(sockets=[listener])

    async def _shut(self) -> None:
        self._is_ready = False
        log.info("draining")
        await self._drain()


def version() -> str:
    """Version of the installed package."""
    return package_version("cueline")


def _event_log(settings: Settings, data: Path, keys: Keyring) -> EmbeddedLog | RedisLog:
    """Return the log that is configured, not started."""
    retention_s = settings.log.retention_hours * 3600.0
    if settings.log.backend == "embedded":
        # As long as a record waits: what a source was told is stored is in the log's file as well, or a moment later.
        limits = LogLimits(linger_s=0.02, retention_s=retention_s)
        return EmbeddedLog(data / "log", limits=limits, keys=keys, on_notice=_tell)
    try:
        from server.log.redis import RedisLog  # its client is an extra
        from server.log.redis_held import RedisLimits
        from server.log.redis_leases import SCRIPTS
    except ImportError as error:
        raise ConfigError("needs the extra redis: pip install 'cueline[redis]'", field="log.backend") from error
    return RedisLog(
        settings.log.url,
        settings.log.password,
        timeout_s=settings.log.timeout_ms / 1000,
        scripts=SCRIPTS,
        limits=RedisLimits(retention_s=retention_s, max_stream_entries=settings.log.max_stream_entries),
        keys=keys,
        on_notice=_tell,
    )


async def _stop(recogniser: Recogniser, start: asyncio.Task[None]) -> None:
    """Stop a recogniser whose start may still be under way or have failed: half a start would leave processes."""
    await asyncio.wait([start])
    if start.exception() is None:
        await recogniser.stop()


def _tell(notice: Notice) -> None:
    """What the durable side says of itself, to the operator."""
    log.warning(notice.message, extra={"code": notice.code})


def _drainer(
    doors: Sequence[AudioEndpoint | TranscriptEndpoint | AdapterEndpoint],
    calls: LiveCalls,
    feed: FeedEndpoint,
    fleet: Fleet,
) -> Callable[[], Any]:
    async def drain() -> None:
        await fleet.leave_calls(calls)
        await asyncio.gather(*(door.stop() for door in doors))
        await calls.stop()
        await feed.drain()

    return drain
