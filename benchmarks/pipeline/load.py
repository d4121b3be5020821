"""Open-loop load over `/v1/ingest/transcripts`: utterances leave on a fixed schedule whatever the server does.

Latency runs from the instant an utterance was due, not from when it could be sent, so a slow server cannot hide behind
a slow client (coordinated omission). Texts never repeat. Generator and readers share the machine with the server, so
they are as lean as can be: frames are made before the first is due, of an answer is read what it answers and no more,
and nobody watches the clock but where rates are low. Run them under uvloop.

Calls that all begin in one instant, at full rate, say little about a rate that is sustained: the lead of a run is sent,
has to be answered, and is left out of the latencies.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from benchmarks.pipeline.load_socket import CONNECT_TIMEOUT_S, LoadSocket, text_frame
from server.wire.feed import MAX_SUBSCRIPTIONS, Auth, Pong, Sub, TicketResponse
from server.wire.ids import call_channel
from server.wire.ingest import Stop, TranscriptStart, UtteranceIn

SETTLE_S = 5.0
TICK_S = 0.001
"""What a loop's timers count in: to sleep for less is to go once round the loop and ask again."""
TIMER_S = 0.0015
"""How late a timer of a loop may be: half a millisecond of it went into the median of a lone update."""
EXACT_SHARE = 0.02
"""Most of the time between two utterances that the clock may be looked at instead: at high rates the server needs the
core, and a millisecond is nothing."""


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
    def num_utterances(self) -> int:
        """All that are sent, with the lead."""
        return int(self.rate_per_s * (self.lead_s + self.duration_s))

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


class _Sent(msgspec.Struct):
    """An utterance and what came back of it.

    Attributes:
        frame: What is sent.
        due_s: Monotonic; before the schedule begins, from its beginning.
        outputs: Names of its annotations, in the order they came.
        last_s: When the last of them came.
    """

    frame: bytes
    due_s: float
    outputs: list[str]
    last_s: float = 0.0


class _Book:
    """The utterances of a load, made before it begins, and their answers."""

    def __init__(self, texts: Iterator[str], schedule: Schedule) -> None:
        self._schedule = schedule
        self.sent = [
            _sent(number, next(texts), number / schedule.rate_per_s) for number in range(schedule.num_utterances)
        ]
        channels = [call_channel(conversation_id) for conversation_id in schedule.conversation_ids]
        self._of = {(channels[number % len(channels)], f"u{number}"): sent for number, sent in enumerate(self.sent)}
        self.num_outputs = 0

    def answer(self, channel: str, annotation: _Annotation, received_s: float) -> None:
        """Note an annotation.

        Raises:
            KeyError: It is of nothing that was said in that call.
        """
        sent = self._of[channel, annotation.utterance_id]
        sent.outputs.append(annotation.output)
        sent.last_s = received_s
        self.num_outputs += 1

    def result(self, late_ms: list[float]) -> LoadResult:
        """Count as answered what has every output that any has, each of them once."""
        outputs = sorted({output for sent in self.sent for output in sent.outputs})
        lead = int(self._schedule.rate_per_s * self._schedule.lead_s)
        is_answered = [bool(sent.outputs) and sorted(sent.outputs) == outputs for sent in self.sent]
        return LoadResult(
            rate_per_s=self._schedule.rate_per_s,
            sent=len(self.sent),
            answered=sum(is_answered),
            outputs=len(outputs),
            latency_ms=np.array(
                [(sent.last_s - sent.due_s) * 1000 for sent in itertools.compress(self.sent[lead:], is_answered[lead:])]
            ),
            late_ms=np.array(late_ms),
        )


def _sent(number: int, text: str, due_s: float) -> _Sent:
    at_ms = int(due_s * 1000)
    utterance = UtteranceIn(
        utterance_id=f"u{number}",
        revision=1,
        speaker="customer",
        start_ms=at_ms,
        end_ms=at_ms + 900,
        text=text,
        is_final=True,
    )
    return _Sent(text_frame(_encode(utterance)), due_s, [])


class _Annotation(msgspec.Struct, frozen=True):
    """What is measured of an annotation, or of what else a publication holds; the rest is only skipped."""

    utterance_id: str = ""
    output: str = ""


class _Frame(msgspec.Struct, frozen=True):
    """A frame of the feed, or of a source's socket."""

    type: str = ""
    kind: str = ""
    ch: str = ""
    d: _Annotation = _Annotation()


_annotation = msgspec.json.Decoder(_Annotation)
_frame = msgspec.json.Decoder(_Frame)
_encode = msgspec.json.Encoder().encode


async def run_load(url: str, texts: Iterator[str], schedule: Schedule) -> LoadResult:
    """Send finals at a fixed rate, spread evenly over conversations, and follow all their feeds.

    Args:
        url: `ws://host:port`.
        texts: Endless, without repetition.
        schedule: When, and over how many calls.
    """
    book = _Book(texts, schedule)
    ids = schedule.conversation_ids
    groups = [ids[i : i + MAX_SUBSCRIPTIONS] for i in range(0, len(ids), MAX_SUBSCRIPTIONS)]
    feeds = [await _follow(url, group, book) for group in groups]
    sources = [await _Source.open(url, conversation_id) for conversation_id in ids]
    try:
        late_ms = await _send([source.socket for source in sources], book.sent, schedule.rate_per_s)
        await _settle(book)
        for source in sources:
            source.socket.send(_encode(Stop()))
        await asyncio.gather(*(source.stopped.wait() for source in sources))
    finally:
        for socket in (*feeds, *(source.socket for source in sources)):
            await socket.close()
    return book.result(late_ms)


async def run_bare_load(url: str, texts: Iterator[str], schedule: Schedule) -> LoadResult:
    """The same schedule for `annotator`, which answers on the socket that the utterance came on."""
    book = _Book(texts, schedule)

    async def connected(name: str) -> LoadSocket:
        channel = call_channel(name)

        def on_text(body: bytes, received_s: float) -> None:
            book.answer(channel, _annotation.decode(body), received_s)

        return await LoadSocket.connect(f"{url}/{name}", on_text)

    sockets = [await connected(name) for name in schedule.conversation_ids]
    try:
        late_ms = await _send(sockets, book.sent, schedule.rate_per_s)
        await _settle(book)
    finally:
        for socket in sockets:
            await socket.close()
    return book.result(late_ms)


async def _send(sockets: list[LoadSocket], to_send: list[_Sent], rate_per_s: float) -> list[float]:
    """Send each utterance when it is due; return by how many ms later it left."""
    late_ms = []
    gc.collect()
    gc.freeze()  # thousands of utterances and their answers: to walk over them takes milliseconds, counted as latency
    try:
        start_s = time.monotonic() + 0.2
        for number, sent in enumerate(to_send):
            sent.due_s += start_s
            late_ms.append(await wait_until(sent.due_s, rate_per_s) * 1000)
            sockets[number % len(sockets)].send_frame(sent.frame)
    finally:
        gc.unfreeze()
    return late_ms


async def wait_until(due_s: float, rate_per_s: float) -> float:
    """Wait until an utterance is due, as exactly as its rate allows; return by how many seconds that is late."""
    is_exact = TIMER_S * rate_per_s <= EXACT_SHARE
    while (early_s := due_s - time.monotonic()) > 0:  # noqa: ASYNC110 - a clock sets no event
        await asyncio.sleep(max(early_s - TIMER_S, 0) if is_exact else max(early_s, TICK_S))
    return -early_s


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
            book.answer(frame.ch, frame.d, received_s)
        elif frame.type == "authenticated":
            authenticated.set()
        elif frame.type == "subscribed":
            nonlocal num_subscribed
            num_subscribed += 1
            if num_subscribed == len(ids):
                subscribed.set()
        elif frame.type == "ping":
            socket.send(_encode(Pong()))

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
        before = book.num_outputs
        await asyncio.sleep(0.3)
        if book.num_outputs == before:
            return
