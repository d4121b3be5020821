"""Open-loop load over `/v1/ingest/transcripts`: utterances leave on a fixed schedule whatever the server does.

Latency runs from the instant an utterance was due, not from when it could be sent, so a slow server cannot hide behind
a slow client (coordinated omission). Texts never repeat. Generator and readers share the machine with the server, so
they are as lean as can be: run them under uvloop.

Calls that all begin in one instant, at full rate, say little about a rate that is sustained: the lead of a run is sent,
has to be answered, and is left out of the latencies.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np

from benchmarks.pipeline.load_socket import CONNECT_TIMEOUT_S, LoadSocket
from server.wire.feed import MAX_SUBSCRIPTIONS, Auth, Sub, TicketResponse
from server.wire.ids import call_channel
from server.wire.ingest import Stop, TranscriptStart, UtteranceIn

SETTLE_S = 5.0
TIMER_S = 0.0015
"""How late a timer of a loop may be: half a millisecond of it went into the median of a lone update."""
EXACT_SHARE = 0.02
"""Most of the time between two utterances that the clock is looked at instead: at high rates the server needs the core,
and half a millisecond is nothing."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When utterances are due.

    Attributes:
        rate_per_s: Utterances a second over all conversations.
        duration_s: Its length, without the lead.
        conversations: Calls at once.
        prefix: Of the conversation ids.
        lead_s: How long the rate is held before latencies count.
    """

    rate_per_s: float
    duration_s: float
    conversations: int
    prefix: str
    lead_s: float = 0.0

    @property
    def conversation_ids(self) -> list[str]:
        """Of all calls, in their order."""
        return [f"{self.prefix}-{index}" for index in range(self.conversations)]


@dataclass
class LoadResult:
    """What came of a load.

    Attributes:
        rate_per_s: Utterances a second asked for.
        sent: Utterances sent.
        answered: Utterances with all their annotations.
        outputs: Annotations of an utterance.
        latency_ms: `[answered]` due time to the last annotation on the feed; without those of the lead.
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

    def result(self, schedule: Schedule, late_ms: list[float]) -> LoadResult:
        lead = set(itertools.islice(self.due_s, int(schedule.rate_per_s * schedule.lead_s)))
        outputs = max(self.count.values(), default=0)
        answered = [key for key in self.due_s if self.count[key] == outputs]
        return LoadResult(
            rate_per_s=schedule.rate_per_s,
            sent=len(self.due_s),
            answered=len(answered),
            outputs=outputs,
            latency_ms=np.array([(self.last_s[key] - self.due_s[key]) * 1000 for key in answered if key not in lead]),
            late_ms=np.array(late_ms),
        )


class _Frame(msgspec.Struct):
    """What is measured of a frame of the feed, of a source's socket or of the annotator; the rest is only skipped."""

    type: str = ""
    kind: str = ""
    ch: str = ""
    utterance_id: str = ""
    d: msgspec.Raw = msgspec.Raw()


class _Body(msgspec.Struct):
    utterance_id: str = ""


_frame = msgspec.json.Decoder(_Frame)
_body = msgspec.json.Decoder(_Body)
_encode = msgspec.json.Encoder().encode


async def run_load(url: str, texts: Iterator[str], schedule: Schedule) -> LoadResult:
    """Send finals at a fixed rate, spread evenly over conversations, and follow all their feeds.

    Args:
        url: `ws://host:port`.
        texts: Endless, without repetition.
        schedule: When, and over how many calls.
    """
    book = _Book()
    ids = schedule.conversation_ids
    groups = [ids[i : i + MAX_SUBSCRIPTIONS] for i in range(0, len(ids), MAX_SUBSCRIPTIONS)]
    feeds = [await _follow(url, group, book) for group in groups]
    sources = [await _Source.open(url, conversation_id) for conversation_id in ids]
    try:
        late_ms = await _send([source.socket for source in sources], ids, texts, schedule, book)
        await _settle(book)
        for source in sources:
            source.socket.send(_encode(Stop()))
        await asyncio.gather(*(source.stopped.wait() for source in sources))
    finally:
        for socket in (*feeds, *(source.socket for source in sources)):
            await socket.close()
    return book.result(schedule, late_ms)


async def run_bare_load(url: str, texts: Iterator[str], schedule: Schedule) -> LoadResult:
    """The same schedule for `annotator`, which answers on the socket that the utterance came on."""
    book = _Book()
    ids = schedule.conversation_ids

    async def connected(name: str) -> LoadSocket:
        def on_text(frame: bytes, received_s: float) -> None:
            book.answer(f"{name}/{_frame.decode(frame).utterance_id}", received_s)

        return await LoadSocket.connect(f"{url}/{name}", on_text)

    sockets = [await connected(name) for name in ids]
    try:
        late_ms = await _send(sockets, ids, texts, schedule, book)
        await _settle(book)
    finally:
        for socket in sockets:
            await socket.close()
    return book.result(schedule, late_ms)


async def _send(
    sockets: list[LoadSocket],
    ids: list[str],
    texts: Iterator[str],
    schedule: Schedule,
    book: _Book,
) -> list[float]:
    late_ms, rate_per_s = [], schedule.rate_per_s
    start_s = time.monotonic() + 0.2
    for number in range(int(rate_per_s * (schedule.lead_s + schedule.duration_s))):
        due_s = start_s + number / rate_per_s
        await _until(due_s, exact_s=min(TIMER_S, EXACT_SHARE / rate_per_s))
        index = number % len(sockets)
        at_ms = int((due_s - start_s) * 1000)
        name = f"u{number}"
        utterance = UtteranceIn(
            utterance_id=name,
            revision=1,
            speaker="customer",
            start_ms=at_ms,
            end_ms=at_ms + 900,
            text=next(texts),
            is_final=True,
        )
        book.due_s[f"{ids[index]}/{name}"] = due_s
        late_ms.append((time.monotonic() - due_s) * 1000)
        sockets[index].send(_encode(utterance))
    return late_ms


async def _until(due_s: float, exact_s: float) -> None:
    """Wait for an instant, the last of it by looking at the clock."""
    if (delay_s := due_s - exact_s - time.monotonic()) > 0:
        await asyncio.sleep(delay_s)
    while time.monotonic() < due_s:  # noqa: ASYNC110 - a clock sets no event
        await asyncio.sleep(0)


async def _follow(url: str, ids: list[str], book: _Book) -> LoadSocket:
    """Read the feed of some calls on one socket, from now on."""
    request = urllib.request.Request(f"{url.replace('ws', 'http', 1)}/v1/tickets", method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ticket() -> str:
        with opener.open(request, timeout=CONNECT_TIMEOUT_S) as response:
            return msgspec.json.decode(response.read(), type=TicketResponse).ticket

    num_subscribed = 0
    authenticated, subscribed = asyncio.Event(), asyncio.Event()

    def on_text(body: bytes, received_s: float) -> None:
        frame = _frame.decode(body)
        if frame.kind == "annotation":
            book.answer(f"{frame.ch.partition(':')[2]}/{_body.decode(frame.d).utterance_id}", received_s)
        elif frame.type == "authenticated":
            authenticated.set()
        elif frame.type == "subscribed":
            nonlocal num_subscribed
            num_subscribed += 1
            if num_subscribed == len(ids):
                subscribed.set()
        elif frame.type == "ping":
            socket.send(b'{"type":"pong"}')

    socket = await LoadSocket.connect(f"{url}/v1/feed", on_text)
    socket.send(_encode(Auth(ticket=await asyncio.to_thread(ticket))))
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        await authenticated.wait()
        for conversation_id in ids:
            socket.send(_encode(Sub(ch=call_channel(conversation_id))))
        await subscribed.wait()
    return socket


@dataclass
class _Source:
    """A transcript source.

    Attributes:
        socket: Where its utterances go.
        started: The server took its call.
        stopped: The server has stored all of it.
    """

    socket: LoadSocket
    started: asyncio.Event
    stopped: asyncio.Event

    @classmethod
    async def open(cls, url: str, conversation_id: str) -> _Source:
        told = {"started": asyncio.Event(), "stopped": asyncio.Event()}

        def on_text(body: bytes, _: float) -> None:
            frame = _frame.decode(body)
            if frame.type != "ack":
                told[frame.type].set()

        socket = await LoadSocket.connect(f"{url}/v1/ingest/transcripts", on_text)
        socket.send(_encode(TranscriptStart(conversation_id=conversation_id)))
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await told["started"].wait()
        return cls(socket, told["started"], told["stopped"])


async def _settle(book: _Book) -> None:
    """Wait until nothing has come for a moment."""
    for _ in itertools.repeat(None, int(SETTLE_S / 0.1)):
        before = sum(book.count.values())
        await asyncio.sleep(0.3)
        if sum(book.count.values()) == before:
            return
