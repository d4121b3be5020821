"""Who may do what, over every door of the application: each route, socket, channel and command is in one table.

A route, a socket or a command that is new and not in the table fails here; so does one that lets in anybody whom the
table does not name. Everything is real but the rooms behind the doors.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import re
import time
from types import SimpleNamespace
from typing import Any, get_args

import httpx
import pytest
from litestar.routes import HTTPRoute

import server.main
from server.app.api import ApiDependencies, build_api
from server.app.asgi import Application
from server.auth.desk import TicketDesk
from server.auth.identity import Identity, Role
from server.auth.origin import OriginPolicy
from server.auth.rate import RateLimiter
from server.auth.tickets import Tickets
from server.auth.tokens import SharedKeyAuthenticator, issue_token
from server.config.budget import Budget
from server.config.settings import IngestSettings
from server.feed.access import Owner
from server.feed.endpoint import FeedEndpoint
from server.feed.socket import Commands
from server.ingest.adapters import audiohook, lca, twilio
from server.ingest.adapters.contract import Adapter
from server.ingest.adapters.endpoint import AdapterEndpoint
from server.ingest.audio_socket import AudioEndpoint
from server.ingest.carried_source import Way
from server.ingest.door import Door
from server.ingest.relay import Relay
from server.ingest.transcript_socket import TranscriptEndpoint
from server.log.contract import ChannelKey
from server.main import Server
from server.metrics import Metrics
from server.privacy.erasure import Erasure
from server.speech.scripted import ScriptedRecogniser
from server.wire import feed
from server.wire.errors import Overloaded
from server.wire.ids import AgentId, TenantId
from tests.server.feed.harness import MemoryLog, transcript

KEY = "k" * 32
WORLD = "nobody who signs in"


def token(tenant: str = "t", agent: str | None = None, *roles: Role, teams: tuple[str, ...] = ()) -> str:
    return issue_token(KEY, tenant_id=tenant, agent_id=agent, roles=roles, teams=teams, ttl_s=600, wall_s=time.time())


PEOPLE: dict[str, str | None] = {
    WORLD: None,
    "forger": issue_token("f" * 32, tenant_id="t", agent_id="a1", roles=["admin"], ttl_s=600, wall_s=time.time()),
    "no role": token("t", "a1"),
    "agent": token("t", "a1", "agent"),
    "colleague": token("t", "a2", "agent"),
    "supervisor": token("t", "s1", "supervisor", teams=("north",)),
    "far supervisor": token("t", "s2", "supervisor", teams=("south",)),
    "telephony": token("t", None, "telephony"),
    "admin": token("t", None, "admin"),
    "operator": token("t", None, "operator"),
    "other tenant": token("u", "a1", "agent", "supervisor", "telephony", "admin", teams=("north",)),
}
KNOWN = set(PEOPLE) - {WORLD, "forger"}
"""The call c1 belongs to agent a1 of team north of tenant t. In the other tenant, where "other tenant" may do all
there is to do, the same names mean other things."""
SECRET = "words of tenant t"
PATIENCE_S = 5.0
"""For what comes of a frame: every one is answered, acted upon or ends the socket."""

ROUTES: dict[str, set[str]] = {
    # what a page or a probe needs before anybody has signed in, and nothing of a tenant
    "GET /": set(PEOPLE),
    "GET /app/{name:path}": set(PEOPLE),
    "GET /healthz": set(PEOPLE),
    "GET /health/check": set(PEOPLE),
    "GET /readyz": set(PEOPLE),
    "GET /schema": set(PEOPLE),
    "GET /schema/openapi.json": set(PEOPLE),
    "GET /schema/{path:str}": set(PEOPLE),
    "GET /v1/budget": set(PEOPLE),
    "GET /metrics": set(),  # from another machine, without its own key
    # whoever is known
    "POST /v1/tickets": KNOWN,
    "GET /v1/status": KNOWN,
    "GET /v1/agents": KNOWN,  # and of the agents who they may see, below
    # a tenant's
    "GET /v1/conversations": {"admin", "other tenant"},  # each its own
    "GET /v1/conversations/{conversation_id:str}": {"agent", "supervisor", "admin"},
    "DELETE /v1/conversations/{conversation_id:str}": {"admin", "other tenant"},  # each its own
    "DELETE /v1/customers/{customer_id:str}": {"admin", "other tenant"},
    "GET /v1/erasures/{receipt_id:str}": {"admin"},
    "GET /v1/kb": {"agent", "colleague", "supervisor", "far supervisor", "admin", "other tenant"},
    "POST /v1/kb/{name:str}/search": {"agent", "colleague", "supervisor", "far supervisor", "admin", "other tenant"},
    "GET /v1/kb/unanswered": {"admin", "other tenant"},
    "PUT /v1/kb/{name:str}": {"admin", "other tenant"},
    "DELETE /v1/kb/{name:str}": {"admin", "other tenant"},
    "POST /v1/kb/{name:str}/rollback": {"admin", "other tenant"},
    # what all tenants share
    "GET /v1/models": {"operator"},
    "POST /v1/models/{model:str}/promote": {"operator"},
    "POST /v1/models/{model:str}/rollback": {"operator"},
    "POST /v1/demo/calls": set(),  # where somebody signs in there is none
}
SOCKETS = {
    "/v1/feed": KNOWN,  # with a ticket; what then may be followed is below
    "/v1/ingest/audio": {"agent", "telephony", "other tenant"},
    "/v1/ingest/transcripts": {"agent", "telephony", "other tenant"},
    "/api/v1/ws": {"agent", "telephony", "other tenant"},
    "/v1/ingest/twilio": {"agent", "telephony", "other tenant"},
    "/v1/ingest/audiohook": {"agent", "telephony", "other tenant"},
}
CHANNELS = {
    "call": {"agent", "supervisor", "admin", "other tenant"},
    "agent": {"agent", "supervisor", "admin", "other tenant"},
}
COMMANDS = {
    "receipt": {"agent", "supervisor"},
    "ask": {"agent", "supervisor"},
    "say": {"agent"},
}
PROTOCOL = {"auth", "sub", "unsub", "ping", "pong"}
"""Feed messages that act on nothing but the socket itself; `sub` is the table of channels."""


class _Store:
    async def erasures(self, tenant_id: str, receipt_id: str) -> list[dict[str, Any]]:
        return [{"num_rows": {}}] if tenant_id == "t" else []

    async def unanswered(self, tenant_id: str, limit: int) -> list[dict[str, Any]]:
        return []

    async def of_customer(self, *_: Any) -> list[str]:
        return ["c1"]

    async def conversations(self, tenant_id: str, **_: Any) -> list[dict[str, Any]]:
        return [{"tenant_id": tenant_id}]

    async def conversation(self, tenant_id: str, conversation_id: str) -> dict[str, Any] | None:
        return {"tenant_id": tenant_id, "agent_id": "a1", "team": "north"} if tenant_id == "t" else None


class _Directory:
    async def owner(self, key: ChannelKey) -> Owner | None:
        return Owner(AgentId("a1"), "north") if key.tenant_id == "t" and key.channel[-2:] in ("c1", "a1") else None

    async def agent_of(self, tenant_id: str, conversation_id: str) -> tuple[bool, AgentId | None]:
        owner = await self.owner(ChannelKey(TenantId(tenant_id), f"call:{conversation_id}"))
        return owner is not None, owner and owner.agent_id


class _Desk:
    """Opens nothing: that it was asked is what counts."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def open(self, tenant_id: str, conversation_id: str, **_: Any) -> Any:
        self.asked.append((tenant_id, conversation_id))
        raise Overloaded("no room")


class _Journal:
    async def put(self, record: Any) -> None: ...

    async def drained(self) -> None: ...

    async def rotate(self) -> None: ...

    async def forget_refused(self, *_: Any) -> int:
        return 0


class _Audit:
    """Who read what."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    async def note(self, identity: Identity, action: str, what: str, *, outcome: str = "allowed") -> None:
        self.noted.append(f"{outcome} {action} {what}")


class _Live:
    async def is_live(self, *_: Any) -> bool:
        return False


class _Models:
    """Every answer of the model desk."""

    def __getattr__(self, name: str) -> Any:
        async def answer(*_: Any, **__: Any) -> None: ...

        return (lambda *_: []) if name == "status" else answer


class _Bases:
    """Every answer of the knowledge desk."""

    async def manifests(self, tenant: str) -> list[Any]:
        return []

    async def rollback(self, tenant: str, name: str) -> int:
        return 1

    async def remove(self, tenant: str, name: str) -> None: ...

    async def fill(self, tenant: str, name: str, archive: bytes) -> dict[str, int]:
        return {"articles": 1}


class World:
    """The application and what reached the rooms behind it."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.happened = asyncio.Event()
        metrics, tickets, origins = Metrics(), Tickets(), OriginPolicy()
        log = MemoryLog()
        for channel in ("call:c1", "agent:a1"):
            log.append_now(ChannelKey(TenantId("t"), channel), transcript(1, text=SECRET))
        authenticator = SharedKeyAuthenticator(KEY)
        self.desk, self.audit = _Desk(), _Audit()
        store: Any = _Store()
        settings = IngestSettings()
        door = Door(authenticator, origins, _Directory())
        desk = TicketDesk(authenticator, tickets, limiter=RateLimiter(1e6, 1e6))
        ears = ScriptedRecogniser([])
        way = Way(self.desk, ears, Relay(), metrics)
        adapters: dict[str, Adapter] = {
            lca.PATH: lca.LcaAdapter(authenticator, tickets),
            twilio.PATH: twilio.TwilioAdapter(settings.twilio, authenticator),
            audiohook.PATH: audiohook.AudioHookAdapter(settings.audiohook, authenticator),
        }
        self.web = build_api(
            ApiDependencies(
                authenticator=authenticator,
                tickets=desk,
                origins=origins,
                store=store,
                directory=_Directory(),
                audit=self.audit,  # type: ignore[arg-type]
                erasure=Erasure(store, _Journal(), _Live(), self.audit, ()),  # type: ignore[arg-type]
                models=_Models(),
                knowledge=_Bases(),
                metrics=metrics,
                budget=Budget(1250.0, 1500.0, {}),
                health=SimpleNamespace(is_ready=True, status=dict),
                demo=None,
            ),
            "1",
        )
        self.application = Application(
            {
                "/v1/feed": FeedEndpoint(
                    log,
                    tickets,
                    metrics,
                    directory=_Directory(),
                    commands=Commands(self.take("receipt"), self.take("ask"), self.take("say")),
                ),
                "/v1/ingest/audio": AudioEndpoint(self.desk, ears, door, settings, metrics),
                "/v1/ingest/transcripts": TranscriptEndpoint(self.desk, door, settings, metrics),
                **{path: AdapterEndpoint(adapter, way, door, origins, settings) for path, adapter in adapters.items()},
            },
            self.web,
        )

    def take(self, name: str) -> Any:
        async def taken(*_: Any) -> None:
            self.commands.append(name)
            self.happened.set()

        return taken

    async def http(self, method: str, path: str, person: str) -> httpx.Response:
        bearer = PEOPLE[person]
        transport = httpx.ASGITransport(self.application, client=("203.0.113.7", 1))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://cueline.example") as client:
            return await client.request(method, path, headers={"Authorization": f"Bearer {bearer}"} if bearer else {})

    async def socket(self, path: str, person: str, *frames: dict[str, Any]) -> list[dict[str, Any]]:
        """Send frames and read what comes back until the server has nothing more to say to them, or closes."""
        sent: list[dict[str, Any]] = []
        incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        incoming.put_nowait({"type": "websocket.connect"})
        for frame in frames:
            incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(frame)})
        incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        bearer = PEOPLE[person]
        headers = [(b"authorization", f"Bearer {bearer}".encode())] if bearer else []
        scope = {
            "type": "websocket", "path": path, "headers": headers, "subprotocols": [], "extensions": {},
            "query_string": b"", "scheme": "wss",
        }  # fmt: skip

        num_given = 0
        self.happened = asyncio.Event()  # of this test's loop

        async def receive() -> dict[str, Any]:
            nonlocal num_given
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):  # what came of the frame before comes first
                    while len(sent) + len(self.commands) < num_given:
                        self.happened.clear()
                        await self.happened.wait()
            num_given += 1
            return await incoming.get()

        async def send(message: Any) -> None:
            sent.append(message)
            self.happened.set()

        await self.application(scope, receive, send)
        return [json.loads(message["text"]) for message in sent if message["type"] == "websocket.send"]

    async def feed(self, person: str, *frames: dict[str, Any]) -> list[dict[str, Any]] | None:
        answer = await self.http("POST", "/v1/tickets", person)
        if answer.status_code != 201:
            return None
        return await self.socket("/v1/feed", person, {"type": "auth", "ticket": answer.json()["ticket"]}, *frames)


@pytest.fixture(scope="module")
def built() -> World:
    """Built once: its routes take a quarter of a second, and there are hundreds of cases."""
    return World()


@pytest.fixture
def world(built: World) -> World:
    for seen in (built.commands, built.desk.asked, built.audit.noted):
        seen.clear()
    return built


def test_every_route_is_in_the_table(built: World) -> None:
    found = {
        f"{method} {route.path}"
        for route in built.web.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods - {"OPTIONS", "HEAD"}
    }
    assert found == ROUTES.keys()


def test_every_socket_is_in_the_table(built: World) -> None:
    assert built.application.sockets == SOCKETS.keys()
    source = inspect.getsource(Server)
    served = set(re.findall(r'"(/[\w/]+)": ?\w+', source))
    served |= {getattr(server.main, name).PATH for name in re.findall(r"(\w+)\.PATH", source)}
    assert served == SOCKETS.keys(), "the composition root serves a socket that the table does not know"


def test_every_channel_and_command_is_in_the_table() -> None:
    tags = {message.__struct_config__.tag for message in get_args(feed.ClientMessage)}
    assert tags == COMMANDS.keys() | PROTOCOL
    (pattern,) = [meta.pattern for meta in feed.Channel.__metadata__]
    kinds = re.match(r"\^\(([\w|]+)\):", pattern)
    assert kinds is not None
    assert set(kinds[1].split("|")) == CHANNELS.keys()


@pytest.mark.parametrize("person", PEOPLE)
@pytest.mark.parametrize("route", ROUTES)
async def test_a_route_lets_in_whom_the_table_names_and_nobody_else(world: World, route: str, person: str) -> None:
    method, path = route.split(" ")
    path = path.replace("{name:path}", "main.js").replace("{path:str}", "openapi.json")
    path = re.sub(r"{(\w+):str}", "c1", path)
    answer = await world.http(method, path, person)
    if person in ROUTES[route]:
        assert answer.status_code < 300 or answer.status_code == 400
    else:
        assert answer.status_code in ((401,) if person not in KNOWN else (401, 403, 404))
        assert set(answer.json()) <= {"code", "message", "retryable", "field"}


@pytest.mark.parametrize("person", PEOPLE)
@pytest.mark.parametrize("path", SOCKETS)
async def test_a_socket_lets_in_whom_the_table_names_and_nobody_else(world: World, path: str, person: str) -> None:
    if path == "/v1/feed":
        answers = await world.feed(person)
        assert (person in SOCKETS[path]) == bool(answers and answers[0]["type"] == "authenticated")
        return
    await world.socket(path, person, *starts(path, PEOPLE[person] or ""))
    assert (person in SOCKETS[path]) == bool(world.desk.asked)
    assert {tenant for tenant, _ in world.desk.asked} <= {"u" if person == "other tenant" else "t"}


def starts(path: str, bearer: str) -> list[dict[str, Any]]:
    """How each protocol begins the call c1."""
    start: dict[str, Any] = {"type": "start", "conversation_id": "c1"}
    match path:
        case "/v1/ingest/audio":
            audio = {"encoding": "linear16", "sample_rate_hz": 8000, "layout": "stereo"}
            return [start | audio | {"roles": ["customer", "agent"]}]
        case "/v1/ingest/transcripts":
            return [start]
        case lca.PATH:
            return [{"callEvent": "START", "callId": "c1", "samplingRate": 8000, "fromNumber": "1", "toNumber": "2"}]
        case twilio.PATH:
            body = {
                "accountSid": "AC0", "streamSid": "MZ0", "callSid": "c1", "tracks": ["inbound"],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                "customParameters": {"token": bearer},
            }  # fmt: skip
            return [{"event": "start", "sequenceNumber": "1", "start": body, "streamSid": "MZ0"}]
        case audiohook.PATH:
            media = [{"type": "audio", "format": "PCMU", "channels": ["external", "internal"], "rate": 8000}]
            session = "30b0e395-84d3-4570-ac13-9a62d8f514c0"
            parameters = {"organizationId": session, "conversationId": "c1", "media": media, "language": "en-US",
                          "participant": {"id": session, "ani": "1", "aniName": "", "dnis": "2"}}  # fmt: skip
            return [{"version": "2", "id": session, "type": "open", "seq": 1, "serverseq": 0, "position": "PT0S",
                     "parameters": parameters}]  # fmt: skip
    raise AssertionError(f"how does {path} begin?")


async def test_every_read_and_every_refused_one_is_noted(world: World) -> None:
    await world.http("GET", "/v1/conversations/c1", "agent")
    await world.http("GET", "/v1/conversations/c1", "colleague")
    await world.http("GET", "/v1/conversations", "admin")
    await world.http("DELETE", "/v1/conversations/c1", "agent")
    await world.http("DELETE", "/v1/customers/ann", "admin")
    assert world.audit.noted == [
        "allowed read call:c1",
        "refused read call:c1",
        "allowed list conversations",
        "refused erase call:c1",
        "allowed erase call:c1",
    ]


@pytest.mark.parametrize("person", sorted(KNOWN))
@pytest.mark.parametrize("channel", CHANNELS)
async def test_a_channel_is_followed_by_whom_the_table_names(world: World, channel: str, person: str) -> None:
    ch = "call:c1" if channel == "call" else "agent:a1"
    answers = await world.feed(person, {"type": "sub", "ch": ch})
    assert answers is not None
    assert (person in CHANNELS[channel]) == (answers[1]["type"] == "subscribed")
    if person not in CHANNELS[channel]:
        assert answers[1]["code"] == "forbidden"
    is_reading = SECRET in json.dumps(answers)
    assert is_reading == (person in CHANNELS[channel] - {"other tenant"})


@pytest.mark.parametrize("person", sorted(KNOWN))
@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_is_taken_from_whom_the_table_names(world: World, command: str, person: str) -> None:
    frame = {"type": command, "ch": "call:c1", "text": "hello", "id": "a-1", "event": "shown"}
    await world.feed(person, {"type": "sub", "ch": "call:c1"}, frame)
    assert (world.commands == [command]) == (person in COMMANDS[command])


@pytest.mark.parametrize("path", ["/v1/feeds", "/", "/v1/ingest", "/v1/feed/x", "//v1/feed"])
async def test_a_socket_that_there_is_not_is_closed(world: World, path: str) -> None:
    assert await world.socket(path, "admin") == []


async def test_an_identity_has_a_rate_of_its_own(world: World) -> None:
    statuses = [(await world.http("GET", "/v1/status", "agent")).status_code for _ in range(130)]
    assert set(statuses) == {200, 429}
    assert (await world.http("GET", "/v1/status", "colleague")).status_code == 200


@pytest.mark.parametrize("before", ["nan", "inf", "-inf"])
async def test_a_page_begins_at_a_number(world: World, before: str) -> None:
    answer = await world.http("GET", f"/v1/conversations?before_ms={before}", "admin")
    assert (answer.status_code, answer.json()["field"]) == (400, "before_ms")
