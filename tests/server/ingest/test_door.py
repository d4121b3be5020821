"""Who is let in, and who is told not to come again."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from server.auth.identity import Identity
from server.auth.origin import OriginPolicy
from server.auth.tokens import AnonymousAuthenticator
from server.config.settings import IngestSettings
from server.ingest.door import Door
from server.ingest.transcript_socket import TranscriptEndpoint
from server.ingest.websocket import Disconnected
from server.metrics import Metrics
from server.wire.errors import Gone
from server.wire.ids import AgentId, TenantId
from tests.server.ingest.fakes import Desk

GONE, KEPT = TenantId("gone"), TenantId("kept")


@pytest.fixture
def door() -> Door:
    anyone = AnonymousAuthenticator("gone", "anna", ("gone", "kept"))
    return Door(anyone, OriginPolicy(), Desk(), None, lambda tenant_id: tenant_id == GONE)


async def test_calls_of_a_tenant_without_its_key_are_not_taken(door: Door) -> None:
    for role, agent in (("telephony", None), ("agent", AgentId("anna"))):
        assert await door.enter(Identity(KEPT, agent, frozenset({role})), "anna", "c1") == "anna"
        with pytest.raises(Gone):
            await door.enter(Identity(GONE, agent, frozenset({role})), "anna", "c1")


async def test_its_source_is_told_not_to_come_again(door: Door) -> None:
    endpoint = TranscriptEndpoint(Desk(), door, IngestSettings(), Metrics())
    start = {"type": "start", "conversation_id": "c1", "agent_id": "anna"}
    frames = asyncio.Queue()
    frames.put_nowait({"type": "websocket.connect"})
    frames.put_nowait({"type": "websocket.receive", "text": json.dumps(start)})
    frames.put_nowait({"type": "websocket.disconnect"})
    sent = []

    async def send(message):
        sent.append(message)

    with contextlib.suppress(Disconnected):
        await endpoint({"type": "websocket", "path": "/", "headers": []}, frames.get, send)
    answer = json.loads(next(one["text"] for one in sent if one["type"] == "websocket.send"))
    assert (answer["code"], answer["retryable"]) == ("gone", False)
