"""Open-loop load over HTTP, one request an utterance, on the schedule of `benchmarks.pipeline.load`.

Connections are kept; an utterance takes one that is free, and where none is, it is late, not left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import cast

import msgspec
import numpy as np

from benchmarks.pipeline.load import LoadResult, Schedule, wait_until

CONNECTIONS = 400
SETTLE_S = 10.0


class _Connection(asyncio.Protocol):
    def __init__(self, free: asyncio.LifoQueue[_Connection], took_s: list[tuple[float, float]]) -> None:
        self._free = free
        self._took_s = took_s
        self._rest = b""
        self._due_s = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes, due_s: float) -> None:
        assert self.transport is not None
        self._due_s = due_s
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, found, body = self._rest.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return
        if head.startswith(b"HTTP/1.1 200"):
            self._took_s.append((self._due_s, time.monotonic() - self._due_s))
        self._rest = b""
        self._free.put_nowait(self)


async def run_http_load(host: str, port: int, path: str, texts: Iterator[str], schedule: Schedule) -> LoadResult:
    """Ask at a fixed rate; the conversations of the schedule are not told apart."""
    loop = asyncio.get_running_loop()
    free: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
    took_s: list[tuple[float, float]] = []
    connections = [
        (await loop.create_connection(lambda: _Connection(free, took_s), host, port))[1] for _ in range(CONNECTIONS)
    ]
    for connection in connections:
        free.put_nowait(connection)
    bodies = [msgspec.json.encode(next(texts)) for _ in range(schedule.num_utterances)]
    requests = [
        b"POST %s HTTP/1.1\r\nHost: load\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(b), b) for b in bodies
    ]
    start_s = time.monotonic() + 0.2
    late_ms = []
    for number, request in enumerate(requests):
        due_s = start_s + number / schedule.rate_per_s
        await wait_until(due_s, schedule.rate_per_s)
        connection = await free.get()
        late_ms.append((time.monotonic() - due_s) * 1000)
        connection.ask(request, due_s)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            for _ in connections:
                await free.get()
    for connection in connections:
        assert connection.transport is not None
        connection.transport.abort()
    counted = [took * 1000 for due, took in took_s if due >= start_s + schedule.lead_s]
    return LoadResult(
        rate_per_s=schedule.rate_per_s,
        sent=len(requests),
        answered=len(took_s),
        outputs=1,
        latency_ms=np.array(counted),
        late_ms=np.array(late_ms),
    )
