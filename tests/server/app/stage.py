"""The real server side of the page, with a stage in place of telephony: tests play publications on it.

Real: uvicorn, the HTTP API, tickets, the feed endpoint, the embedded log. Missing: audio, models, store. The server
runs on a thread of its own, because the browser is driven synchronously; every method may be called from the test's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import uvicorn

from server.app.api import ApiDependencies, build_api
from server.app.asgi import Application
from server.app.knowledge import KnowledgeDesk
from server.app.models import ModelDesk
from server.audit.log import AuditLog
from server.auth.desk import TicketDesk
from server.auth.identity import Identity
from server.auth.origin import OriginPolicy
from server.auth.tickets import Tickets
from server.auth.tokens import AnonymousAuthenticator, Authenticator
from server.config.budget import load_budget
from server.feed.access import Owner
from server.feed.endpoint import FeedEndpoint
from server.feed.socket import Commands
from server.feed.transport import DirectProtocol
from server.log.contract import ChannelKey, Event
from server.log.embedded import EmbeddedLog
from server.metrics import Metrics
from server.privacy.erasure import Erasure
from server.store.contract import Store
from server.wire.clock import Stamps
from server.wire.errors import CuelineError
from server.wire.feed import Ask, CloseCode, Receipt
from server.wire.ids import AgentId, TenantId
from server.wire.publication import CallState, Payload, Transcript

REPOSITORY = Path(__file__).parents[3]
TENANT = TenantId("car_service")
AGENT = AgentId("agent")
TIMEOUT_S = 20.0

T = TypeVar("T")


class Health:
    """What `/v1/status` tells; tests change it."""

    is_ready = True
    can_ask = False

    def status(self) -> dict[str, Any]:
        return {"ready": self.is_ready, "features": {"ask": self.can_ask}}


class DemoDesk:
    """Starts nothing; remembers what it was asked and answers as told."""

    def __init__(self) -> None:
        self.recordings: list[bytes | None] = []
        self.error: CuelineError | None = None
        self.on_play: Callable[[], Awaitable[None]] | None = None

    async def play(self, recording: bytes | None, tenant_id: str | None) -> str:
        self.recordings.append(recording)
        if self.error is not None:
            raise self.error
        if self.on_play is not None:
            await self.on_play()
        return "demo-1"


class _Directory:
    async def owner(self, key: ChannelKey) -> Owner | None:
        return Owner(AGENT)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to pytest


class Stage:
    """A running server. Use as a context manager.

    Attributes:
        url: Address of the page.
        receipts: What the page sent, in order.
        questions: What was asked.
    """

    def __init__(self, folder: Path, *, authenticator: Authenticator | None = None, has_demo: bool = True) -> None:
        self.health = Health()
        self.demo = DemoDesk()
        self.receipts: list[Receipt] = []
        self.questions: list[str] = []
        self.url = ""
        self._folder = folder
        self._authenticator = authenticator or AnonymousAuthenticator(TENANT, AGENT)
        self._has_demo = has_demo
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stage")
        self._news = threading.Condition()
        self._port = 0

    def __enter__(self) -> Stage:
        self._thread.start()
        try:
            self._log = self._run(self._open_log())
            self.up()
        except BaseException:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self._run(self._log.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()

    def up(self) -> None:
        """Listen, on the same port as before."""
        self._run(self._listen())

    def down(self) -> None:
        """Stop listening and cut every connection; the log goes on."""
        self._run(self._unlisten())

    def cut(self, code: CloseCode) -> None:
        """Close every feed socket from the server's side."""
        self._run(self._cut(code))

    def publish(self, channel: str, payload: Payload, stamps: Stamps | None = None) -> None:
        """Append to the log, from where it reaches the page."""
        is_interim = isinstance(payload, Transcript) and not payload.is_final
        event = Event(payload, stamps or Stamps(), is_interim=is_interim)
        self._run(self._log.append(ChannelKey(TENANT, channel), [event]))

    def call(self, conversation_id: str, state: str, **fields: Any) -> None:
        """A contact event, on both channels."""
        payload = CallState(conversation_id=conversation_id, state=state, agent_id=AGENT, **fields)  # type: ignore[arg-type]
        self.publish(f"call:{conversation_id}", payload)
        self.publish(f"agent:{AGENT}", payload)

    def forget(self, channel: str) -> None:
        """Trim a channel: its next life has another epoch."""
        self._run(self._log.trim(ChannelKey(TENANT, channel)))

    def wait_shown(self, *ids: str) -> list[Receipt]:
        """Wait until the page has told of these cards that they were shown; others may come between them."""
        wanted = set(ids)
        with self._news:
            assert self._news.wait_for(
                lambda: {r.id for r in self.receipts if r.event == "shown"} >= wanted, TIMEOUT_S
            ), self.receipts
            return list(self.receipts)

    def wait_receipt(self, card_id: str, event: str) -> None:
        """Wait until the page has told this of this card."""
        with self._news:
            assert self._news.wait_for(
                lambda: any(r.id == card_id and r.event == event for r in self.receipts), TIMEOUT_S
            ), self.receipts

    def wait_questions(self, count: int) -> list[str]:
        """Wait until so many were asked."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.questions) >= count, TIMEOUT_S)
            return list(self.questions)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT_S)

    async def _open_log(self) -> EmbeddedLog:
        log = EmbeddedLog(self._folder / "log")
        await log.start()
        return log

    async def _listen(self) -> None:
        tickets = Tickets()
        metrics = Metrics()
        origins = OriginPolicy()
        self._feed = FeedEndpoint(
            self._log,
            tickets,
            metrics,
            directory=_Directory(),
            commands=Commands(on_receipt=self._on_receipt, on_ask=self._on_ask),
            origins=origins,
        )
        web = build_api(
            ApiDependencies(
                authenticator=self._authenticator,
                tickets=TicketDesk(self._authenticator, tickets, origins=origins),
                origins=origins,
                store=cast(Store, None),  # the page asks for no stored conversation
                directory=_Directory(),
                audit=cast(AuditLog, None),
                erasure=cast(Erasure, None),
                models=cast(ModelDesk, None),
                knowledge=cast(KnowledgeDesk, None),
                metrics=metrics,
                budget=load_budget(REPOSITORY / "graphs"),
                health=self.health,
                demo=self.demo if self._has_demo else None,
            ),
            "0.0.0",
        )
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        config = uvicorn.Config(
            Application({"/v1/feed": self._feed}, web),  # type: ignore[arg-type]
            ws=DirectProtocol,
            ws_ping_interval=None,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))

    async def _unlisten(self) -> None:
        self._server.should_exit = True
        await self._serving

    async def _cut(self, code: CloseCode) -> None:
        for feed_socket in list(self._feed._sockets):
            feed_socket.cut(code, "cut by the test")

    async def _on_receipt(self, _: Identity, __: ChannelKey, receipt: Receipt) -> None:
        with self._news:
            self.receipts.append(receipt)
            self._news.notify_all()

    async def _on_ask(self, _: Identity, __: ChannelKey, question: Ask) -> None:
        with self._news:
            self.questions.append(question.text)
            self._news.notify_all()
