"""Open-loop load over `/v1/ingest/transcripts`: utterances leave on a fixed schedule whatever the server does.

Latency runs from the instant an utterance was due, not from when it could be sent, so a slow server cannot hide behind
a slow client (coordinated omission). Texts never repeat. The generator shares the machine with the server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from server.replay.feed_client import FeedClient, Received, Subscribed
from server.wire.feed import MAX_SUBSCRIPTIONS
from server.wire.ids import call_channel

SETTLE_S = 5.0


@dataclass
class LoadResult:
    """What came of a load.

    Attributes:
        rate_per_s: Utterances a second asked for.
        sent: Utterances sent.
        answered: Utterances with all their annotations.
        outputs: Annotations of an utterance.
        latency_ms: `[answered]` due time to the last annotation on the feed.
        late_ms: `[sent]` how late the generator itself was.
    """

    rate_per_s: float
    sent: int
    answered: int
    outputs: int
    latency_ms: np.ndarray
    late_ms: np.ndarray

    def percentile(self, share: float) -> float:
        """Latency in ms at a share, 0 to 100; infinite where nothing was answered."""
        return float(np.percentile(self.latency_ms, share)) if len(self.latency_ms) else float("inf")

    def __str__(self) -> str:
        return (
            f"{self.rate_per_s:g}/s: {self.answered} of {self.sent} answered ({self.outputs} outputs each), "
            f"p50 {self.percentile(50):.1f} p95 {self.percentile(95):.1f} p99 {self.percentile(99):.1f} "
            f"max {self.percentile(100):.1f} ms; generator late p99 {np.percentile(self.late_ms, 99):.1f} ms"
        )


@dataclass
class _Book:
    due_s: dict[str, float] = field(default_factory=dict)
    last_s: dict[str, float] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def answer(self, key: str, received_s: float) -> None:
        self.last_s[key] = received_s
        self.count[key] += 1

    def result(self, rate_per_s: float, late_ms: list[float]) -> LoadResult:
        outputs = max(self.count.values(), default=0)
        answered = [key for key in self.due_s if self.count[key] == outputs]
        return LoadResult(
            rate_per_s=rate_per_s,
            sent=len(self.due_s),
            answered=len(answered),
            outputs=outputs,
            latency_ms=np.array([(self.last_s[key] - self.due_s[key]) * 1000 for key in answered]),
            late_ms=np.array(late_ms),
        )


async def run_load(
    url: str, texts: Iterator[str], *, rate_per_s: float, duration_s: float, conversations: int, prefix: str
) -> LoadResult:
    """Send finals at a fixed rate, spread evenly over conversations, and follow all their feeds.

    Args:
        url: `ws://host:port`.
        texts: Endless, without repetition.
        rate_per_s: Utterances a second over all conversations.
        duration_s: Length of the schedule.
        conversations: Calls at once.
        prefix: Of the conversation ids.
    """
    book = _Book()
    ids = [f"{prefix}-{index}" for index in range(conversations)]
    groups = [ids[i : i + MAX_SUBSCRIPTIONS] for i in range(0, len(ids), MAX_SUBSCRIPTIONS)]
    subscribed = asyncio.Semaphore(0)
    followers = [asyncio.create_task(_follow(url, group, book, subscribed)) for group in groups]
    sockets: list[ClientConnection] = []
    drains: list[asyncio.Task[None]] = []
    try:
        for _ in ids:
            await subscribed.acquire()
        for conversation_id in ids:
            socket = await connect(f"{url}/v1/ingest/transcripts", compression=None, max_queue=None)
            await socket.send(json.dumps({"type": "start", "conversation_id": conversation_id}))
            await socket.recv()
            sockets.append(socket)
            drains.append(asyncio.create_task(_drain(socket)))
        late_ms = await _send(sockets, ids, texts, rate_per_s, duration_s, book)
        await _settle(book)
        for socket in sockets:
            await socket.send('{"type":"stop"}')
        await asyncio.gather(*drains)
    finally:
        for task in (*followers, *drains):
            task.cancel()
        await asyncio.gather(*followers, *drains, return_exceptions=True)
        for socket in sockets:
            await socket.close()
    return book.result(rate_per_s, late_ms)


async def run_bare_load(
    url: str, texts: Iterator[str], *, rate_per_s: float, duration_s: float, conversations: int, prefix: str
) -> LoadResult:
    """The same schedule for `annotator`, which answers on the socket that the utterance came on."""
    book = _Book()
    ids = [f"{prefix}-{index}" for index in range(conversations)]
    sockets = [await connect(f"{url}/{name}", compression=None, max_queue=None) for name in ids]
    readers = [
        asyncio.create_task(_read_annotations(name, socket, book)) for name, socket in zip(ids, sockets, strict=True)
    ]
    try:
        late_ms = await _send(sockets, ids, texts, rate_per_s, duration_s, book)
        await _settle(book)
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        for socket in sockets:
            await socket.close()
    return book.result(rate_per_s, late_ms)


async def _send(
    sockets: list[ClientConnection],
    ids: list[str],
    texts: Iterator[str],
    rate_per_s: float,
    duration_s: float,
    book: _Book,
) -> list[float]:
    late_ms = []
    start_s = time.monotonic() + 0.2
    for number in range(int(rate_per_s * duration_s)):
        due_s = start_s + number / rate_per_s
        delay_s = due_s - time.monotonic()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        index = number % len(sockets)
        at_ms = int((due_s - start_s) * 1000)
        message = {
            "type": "utterance",
            "utterance_id": f"u{number}",
            "revision": 1,
            "speaker": "customer",
            "start_ms": at_ms,
            "end_ms": at_ms + 900,
            "text": next(texts),
            "is_final": True,
        }
        book.due_s[f"{ids[index]}/u{number}"] = due_s
        late_ms.append((time.monotonic() - due_s) * 1000)
        await sockets[index].send(json.dumps(message))
    return late_ms


async def _follow(url: str, ids: list[str], book: _Book, subscribed: asyncio.Semaphore) -> None:
    async with FeedClient(url) as feed:
        for conversation_id in ids:
            await feed.subscribe(call_channel(conversation_id))
        async for event in feed.events():
            match event:
                case Subscribed():
                    subscribed.release()
                case Received(publication, received_s) if publication.kind == "annotation":
                    book.answer(f"{publication.ch.partition(':')[2]}/{publication.d['utterance_id']}", received_s)


async def _read_annotations(name: str, socket: ClientConnection, book: _Book) -> None:
    async for frame in socket:
        book.answer(f"{name}/{msgspec.json.decode(frame)['utterance_id']}", time.monotonic())


async def _drain(socket: ClientConnection) -> None:
    async for frame in socket:
        if msgspec.json.decode(frame)["type"] == "stopped":
            return


async def _settle(book: _Book) -> None:
    """Wait until nothing has come for a moment."""
    for _ in itertools.repeat(None, int(SETTLE_S / 0.1)):
        before = sum(book.count.values())
        await asyncio.sleep(0.3)
        if sum(book.count.values()) == before:
            return
