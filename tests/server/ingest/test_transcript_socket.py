"""The transcript door over plain ASGI messages: which agent a call goes to, and who may say so."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from server.auth.origin import OriginPolicy
from server.auth.tokens import SharedKeyAuthenticator, issue_token
from server.config.settings import IngestSettings
from server.ingest.door import Door
from server.ingest.transcript_socket import TranscriptEndpoint
from server.metrics import Metrics
from tests.server.ingest.fakes import Desk
from tests.virtual_time import virtual_time

KEY = "k" * 32
START = {"type": "start", "conversation_id": "c1", "agent_id": "anna"}
ASSIGN = {"type": "assign", "agent_id": "ben"}
STOP = {"type": "stop"}


async def answers(
    desk: Desk, role: str, *messages: dict[str, object], is_silent: bool = False
) -> list[dict[str, object]]:
    """What the source is told, of one socket from its start to its end; a silent one never ends it."""
    token = issue_token(KEY, tenant_id="t", agent_id="anna", roles=[role], ttl_s=60.0, wall_s=time.time())
    events: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    sent: list[dict[str, object]] = []
    events.put_nowait({"type": "websocket.connect"})
    for message in messages:
        events.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})
    if not is_silent:
        events.put_nowait({"type": "websocket.disconnect"})

    async def send(event: dict[str, object]) -> None:
        if event["type"] == "websocket.send":
            sent.append(json.loads(str(event["text"])))
        elif event["type"] == "websocket.close":
            sent.append({"type": "close", "code": event["code"]})
            events.put_nowait({"type": "websocket.disconnect"})

    door = Door(SharedKeyAuthenticator(KEY), OriginPolicy(), desk)
    endpoint = TranscriptEndpoint(desk, door, IngestSettings(), Metrics())
    headers = [(b"authorization", f"Bearer {token}".encode())]
    await endpoint({"type": "websocket", "path": "/", "headers": headers}, events.get, send)
    return sent


async def test_a_call_goes_to_another_agent_while_it_goes_on() -> None:
    desk = Desk()
    told = await answers(desk, "telephony", START, ASSIGN, STOP)
    assert [message["type"] for message in told] == ["started", "stopped", "close"]
    assert desk.assigned == [("c1", "ben")]


@virtual_time
async def test_a_source_that_is_silent_for_too_long_is_told_so_and_may_come_back() -> None:
    loop = asyncio.get_running_loop()
    told = await answers(Desk(), "telephony", START, is_silent=True)
    assert [message["type"] for message in told] == ["started", "error", "close"]
    assert told[1]["message"] == "nothing came within the idle limit"
    assert told[2]["code"] == 1013
    assert loop.time() == pytest.approx(IngestSettings().idle_timeout_s, abs=0.01)


async def test_an_agent_gives_its_call_to_nobody_else() -> None:
    desk = Desk()
    told = await answers(desk, "agent", START, ASSIGN, STOP)
    assert [message.get("code", message["type"]) for message in told] == ["started", "forbidden", "stopped", 1000]
    assert desk.assigned == []


@pytest.mark.parametrize("agent_id", ["", "x" * 1000, 7, None])
async def test_an_agent_that_cannot_be_is_refused_by_its_field(agent_id: object) -> None:
    desk = Desk()
    told = await answers(desk, "telephony", START, ASSIGN | {"agent_id": agent_id}, STOP)
    assert [message.get("field") for message in told] == [None, "agent_id", None, None]
    assert desk.assigned == []
