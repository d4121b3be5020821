"""The feed on a loopback port in this process, and its readers in another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import uvicorn

from server.auth.identity import Identity
from server.auth.tickets import Tickets
from server.feed.endpoint import FeedEndpoint
from server.feed.session import Limits
from server.feed.transport import DirectProtocol
from server.keys.keyring import Keyring
from server.keys.local import LocalKeys
from server.log.contract import Event, EventLog
from server.log.embedded import EmbeddedLog, LogLimits
from server.metrics import Metrics
from server.wire.clock import Stamps
from server.wire.ids import AgentId, TenantId
from server.wire.publication import Transcript

Log = TypeVar("Log", bound=EventLog)

TENANT = TenantId("t")
SOMEONE = Identity(TENANT, AgentId("a"), frozenset({"agent"}), is_anonymous=True)
TEXT = "good morning, my oil light is still on after the service you did on my car last week, can you have a look"


def event(number: int) -> Event:
    """A final transcript of ordinary length."""
    payload = Transcript(
        utterance_id=f"u{number}", revision=1, speaker="customer", start_ms=1000, end_ms=2000, text=TEXT, is_final=True
    )
    return Event(payload, Stamps(t0=1.5, t1=2.5, t2=3.5, t3=4.5))


class Swarm:
    """The readers' process; its commands are described in `swarm.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def command(self, *words: object) -> Any:
        """Give a command and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        answer = (await self._process.stdout.readline()).strip()
        assert answer, "the swarm died"
        return None if answer in (b"ready", b"done") else json.loads(answer)


@contextlib.asynccontextmanager
async def swarm_process() -> AsyncIterator[Swarm]:
    """Start it, and end it whatever happens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("swarm.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    try:
        yield Swarm(process)
    finally:
        process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True)
class RunningFeed(Generic[Log]):
    """A feed that serves."""

    endpoint: FeedEndpoint
    log: Log
    desk: Tickets
    port: int

    def tickets(self, num: int) -> list[str]:
        """So many tickets."""
        return [self.desk.issue(SOMEONE, time.monotonic()) for _ in range(num)]


async def keyring(folder: Path) -> Keyring:
    """The tenant's key, and a keyring of one process."""
    keys = Keyring(LocalKeys(folder / "keys"))
    await keys.prepare(TENANT)
    return keys


@contextlib.asynccontextmanager
async def feed_server(folder: Path) -> AsyncIterator[RunningFeed[EmbeddedLog]]:
    """The feed alone, as `server.main` runs it: same protocol class, same sealed log, no models."""
    log = EmbeddedLog(folder / "log", limits=LogLimits(linger_s=0.002), keys=await keyring(folder))
    await log.start()
    try:
        async with feed_on(log) as feed:
            yield feed
    finally:
        await log.stop()


@contextlib.asynccontextmanager
async def feed_on(log: Log) -> AsyncIterator[RunningFeed[Log]]:
    """The feed on a log that is started."""
    tickets = Tickets()
    endpoint = FeedEndpoint(log, tickets, Metrics(), limits=Limits(ping_interval_s=3600.0))
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        endpoint,  # type: ignore[arg-type]
        ws=DirectProtocol,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="error",
        loop="none",
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield RunningFeed(endpoint, log, tickets, listener.getsockname()[1])
    finally:
        server.should_exit = True
        await serving
