"""A server on PostgreSQL with tokens: guidance does not notice a database that is away, and erasure is complete."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from server.auth.identity import Role
from server.auth.tokens import issue_token
from server.replay.feed_client import FeedClient, Received
from server.wire.publication import Publication
from tests.integration.peers import Dial, Peer, collect, is_ended, utterance
from tests.integration.running import RunningServer, serve
from tests.server.store.postgres_server import PostgresServer, a_postgres

pytestmark = pytest.mark.slow

KEY = "k" * 32
RATE_PER_S = 20
NUM_SENT = 100


def token(*roles: Role, agent: str | None = None) -> str:
    return issue_token(KEY, tenant_id="car_service", agent_id=agent, roles=roles, ttl_s=3600, wall_s=time.time())


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with a_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def server(database: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    data = tmp_path_factory.mktemp("data")
    with serve(data, CUELINE_STORE__URL=database.url(), CUELINE_AUTH__SHARED_KEY=KEY) as running:
        yield running


def ask(server: RunningServer, method: str, path: str, bearer: str) -> tuple[int, Any]:
    request = Request(server.url + path, method=method, headers={"Authorization": f"Bearer {bearer}"})
    try:
        with urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())


def dial(server: RunningServer) -> Dial:
    return Dial(
        server.ws, "/v1/ingest/transcripts", additional_headers={"Authorization": f"Bearer {token('telephony')}"}
    )


async def start(peer: Peer, conversation_id: str, **changes: Any) -> None:
    await peer.send({"type": "start", "conversation_id": conversation_id, "agent_id": "a1"} | changes)
    await peer.receive_type("started")


async def end(peer: Peer) -> None:
    await peer.send({"type": "stop"})
    await peer.receive_type("stopped")


async def delays_ms(server: RunningServer, conversation_id: str) -> list[float]:
    """From an utterance's way in to its transcript's way out to the agent, at a steady rate."""
    sent: dict[str, float] = {}
    found: list[float] = []
    async with dial(server) as peer, FeedClient(server.ws, token=token("agent", agent="a1")) as feed:
        await start(peer, conversation_id)
        await feed.subscribe(f"call:{conversation_id}")

        async def listen() -> None:
            async for event in feed.events():
                if isinstance(event, Received) and event.publication.kind == "transcript":
                    found.append((time.perf_counter() - sent[event.publication.d["utterance_id"]]) * 1000)
                    if len(found) == NUM_SENT:
                        return

        listening = asyncio.create_task(listen())
        begun_s = time.perf_counter()
        for number in range(NUM_SENT):
            await asyncio.sleep(max(0.0, begun_s + number / RATE_PER_S - time.perf_counter()))
            sent[f"u{number}"] = time.perf_counter()
            await peer.send(utterance(f"u{number}", f"the number is {number}", start_ms=number, end_ms=number + 1))
        async with asyncio.timeout(20):
            await listening
        await end(peer)
    return sorted(found)


def p99(values: list[float]) -> float:
    return values[int(0.99 * (len(values) - 1))]


async def test_guidance_does_not_notice_a_database_that_is_away(
    server: RunningServer, database: PostgresServer
) -> None:
    await delays_ms(server, "warm-up")
    up = await delays_ms(server, "up")
    database.stop()
    try:
        down = await delays_ms(server, "down")
    finally:
        database.start()
    database.freeze()
    try:
        frozen = await delays_ms(server, "frozen")
    finally:
        database.thaw()
    print(f"\nstore up p99 {p99(up):.1f} ms, down {p99(down):.1f} ms, frozen {p99(frozen):.1f} ms, n {NUM_SENT} each")
    for away in (down, frozen):
        assert p99(away) <= 3 * p99(up) + 25  # the same order: one retry of the store alone takes seconds
    for conversation_id in ("up", "down", "frozen"):
        stored = await told_whole(server, conversation_id)
        assert len(stored["utterances"]) == NUM_SENT
        assert stored["state"] == "ended"


async def told_whole(server: RunningServer, conversation_id: str) -> dict[str, Any]:
    """The conversation, once the outbox has drained: the store answers in the order in which it was told."""
    admin = token("admin")
    async with asyncio.timeout(30):
        while True:
            status, body = await asyncio.to_thread(ask, server, "GET", f"/v1/conversations/{conversation_id}", admin)
            if status == 200 and body["state"] == "ended":
                return body
            await asyncio.sleep(0.1)


async def test_an_erased_call_is_gone_for_everybody_and_the_receipt_says_where(
    server: RunningServer, database: PostgresServer
) -> None:
    async with dial(server) as peer:
        await start(peer, "c-erase", customer_id="cust-7")
        await peer.send(utterance("u1", "my oil light is still on"))
        await peer.receive_type("ack")
        live, _ = await asyncio.to_thread(ask, server, "DELETE", "/v1/conversations/c-erase", token("admin"))
        assert live == 409
        await end(peer)
    stored = await told_whole(server, "c-erase")
    assert stored["utterances"][0]["text"] == "my oil light is still on"
    (row,) = await database.execute("SELECT content FROM utterances WHERE conversation_id = 'c-erase'")
    assert b"oil" not in row["content"]
    refused, _ = await asyncio.to_thread(ask, server, "DELETE", "/v1/customers/cust-7", token("agent", agent="a1"))
    assert refused == 403
    status, receipt = await asyncio.to_thread(ask, server, "DELETE", "/v1/customers/cust-7", token("admin"))
    assert (status, receipt["state"], receipt["conversation_ids"]) == (200, "complete", ["c-erase"])
    assert {place["place"] for place in receipt["places"]} >= {"store", "outbox", "event_log", "predictions"}
    gone, _ = await asyncio.to_thread(ask, server, "GET", "/v1/conversations/c-erase", token("admin"))
    assert gone == 404
    for table in ("utterances", "actions", "conversations", "coverage"):
        (count,) = await database.execute(f"SELECT count(*) FROM {table} WHERE conversation_id = 'c-erase'")
        assert count[0] == 0
    status, kept = await asyncio.to_thread(ask, server, "GET", f"/v1/erasures/{receipt['receipt_id']}", token("admin"))
    assert (status, kept["conversations"][0]["num_rows"]["utterances"]) == (200, 1)


async def test_an_agent_cannot_take_over_a_colleagues_call_by_its_name(server: RunningServer) -> None:
    async with dial(server) as peer:
        await start(peer, "c-mine")
        await peer.send(utterance("u1", "a secret of mine"))
        await peer.receive_type("ack")
        await end(peer)
    await told_whole(server, "c-mine")
    thief = {"Authorization": f"Bearer {token('agent', agent='a2')}"}
    async with Dial(server.ws, "/v1/ingest/transcripts", additional_headers=thief) as peer:
        await peer.send({"type": "start", "conversation_id": "c-mine"})
        assert (await peer.receive())["code"] == "forbidden"
    seen: list[Publication] = await collect(server.ws, "c-mine", is_ended, token=token("agent", agent="a1"))
    assert "a secret of mine" in {one.d.get("text") for one in seen}


def test_a_damaged_database_stops_the_start_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "cueline.db").write_bytes(b"this is no database" * 1000)
    done = subprocess.run(
        [sys.executable, "-c", "from server.cli import main; main()", "serve", "--dry-run"],
        env={**os.environ, "CUELINE_DATA_DIR": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert str(tmp_path / "cueline.db") in done.stderr
    assert "backup" in done.stderr
    assert "Traceback" not in done.stderr
