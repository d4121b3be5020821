"""Both ends of a call that goes through whatever happens to the servers between them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from server.replay.feed_client import FeedClient, Received, Subscribed
from tests.integration.peers import utterance

Script = Callable[[int], list[dict[str, Any]]]


def one_word(number: int) -> list[dict[str, Any]]:
    """A final at once."""
    return [utterance(f"u{number}", f"word u{number}")]


def words_and_moments(number: int) -> list[dict[str, Any]]:
    """An interim and a final, on the audio clock; now and then the words that a card is for."""
    text = "I want to cancel my visit" if number % 10 == 5 else f"these are words of sentence {number}"
    times = {"start_ms": number * 1000, "end_ms": number * 1000 + 900}
    words = text.split()
    return [
        utterance(f"u{number}", " ".join(words[:-1]), 1, is_final=False, **times),
        utterance(f"u{number}", text, 2, **times),
    ]


class Source:
    """A telephony system: keeps what was not acknowledged, and comes back until it is.

    Args:
        urls: Of the servers; the next one is tried after each failure.
        call: Its call.
        script: What is said, utterance for utterance; the last message of each is a final.
        pause_s: Between two utterances.
        patience_s: What a server may take to answer.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        call: str,
        script: Script = one_word,
        pause_s: float = 0.01,
        patience_s: float = 30.0,
    ) -> None:
        self.call = call
        self.acked: dict[str, str] = {}
        self.longest_silence_s = 0.0
        self.num_connections = 0
        self.hanging_up = asyncio.Event()
        self.refused = asyncio.Event()
        self._urls = itertools.cycle([urls] if isinstance(urls, str) else urls)
        self._patience_s = patience_s
        self._script = script
        self._pause_s = pause_s
        self._spoke_s = 0.0
        self._acked = asyncio.Event()

    async def run(self) -> None:
        while True:
            with contextlib.suppress(ConnectionClosed, InvalidHandshake, OSError, TimeoutError):
                async with connect(
                    next(self._urls) + "/v1/ingest/transcripts",
                    compression=None,
                    proxy=None,
                    open_timeout=min(2.0, self._patience_s),
                    close_timeout=0.1,
                ) as socket:
                    if await self._speak(socket):
                        return
            await asyncio.sleep(0.05)

    async def _speak(self, socket: Any) -> bool:
        await socket.send(json.dumps({"type": "start", "conversation_id": self.call, "agent_id": "anna"}))
        if (await self._answer(socket))["type"] != "started":
            return False
        self.num_connections += 1
        while not self.hanging_up.is_set():
            for message in self._script(len(self.acked)):
                await socket.send(json.dumps(message))
                answer = await self._answer(socket)
                if (answer["type"], answer.get("utterance_id")) != ("ack", message["utterance_id"]):
                    self.refused.set()
                    return False
            if self.acked:
                self.longest_silence_s = max(self.longest_silence_s, time.monotonic() - self._spoke_s)
            self._spoke_s = time.monotonic()
            self.acked[message["utterance_id"]] = message["text"]
            self._acked.set()
            await asyncio.sleep(self._pause_s)
        await socket.send(json.dumps({"type": "stop"}))
        return bool((await self._answer(socket))["type"] == "stopped")

    async def _answer(self, socket: Any) -> dict[str, Any]:
        async with asyncio.timeout(self._patience_s):
            answer: dict[str, Any] = json.loads(await socket.recv())
        return answer

    async def speaks(self, more: int = 5, within_s: float = 30.0) -> None:
        """Return once it was acknowledged so many further utterances."""
        target = len(self.acked) + more
        async with asyncio.timeout(within_s):
            while len(self.acked) < target:
                self._acked.clear()
                await self._acked.wait()


class Agent:
    """Follows a call through all cuts until it ends. What it is told was lost, it forgets and learns again."""

    def __init__(self, url: str, call: str) -> None:
        self.words: dict[str, str] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        self.num_lost = 0
        self.ends = 0
        self._url = url
        self._call = call
        self._told = asyncio.Event()

    async def told(self) -> None:
        """Return once it was told something more."""
        self._told.clear()
        await self._told.wait()

    async def run(self) -> None:
        async with FeedClient(self._url, random_s=lambda limit: limit / 20) as client:
            await client.subscribe(f"call:{self._call}")
            async for event in client.events():
                if isinstance(event, Subscribed) and not event.recovered:
                    self.num_lost += event.is_lost
                    self.words.clear()
                if not isinstance(event, Received):
                    continue
                payload = event.publication.d
                self._told.set()
                if event.publication.kind == "transcript":
                    self.words[payload["utterance_id"]] = payload["text"]
                if event.publication.kind == "action":
                    self.cards[payload["id"]] = payload
                if event.publication.kind == "call" and payload["state"] == "ended":
                    self.ends += 1
                    return
