"""One replay: the source streams, the feed client listens, the report adds up."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

from server.replay.feed_client import Disconnected, FeedClient, Received, Refused, Subscribed
from server.replay.recording import Recording
from server.replay.report import ReplayReport
from server.replay.source import Source
from server.wire.clock import wall_ms
from server.wire.errors import Unavailable
from server.wire.ids import call_channel
from server.wire.publication import Publication

SUBSCRIBE_TIMEOUT_S = 10.0
LAST_WORDS_TIMEOUT_S = 20.0
"""How long after `stopped` the feed may take to say that the call ended."""


class Replay:
    """Streams a recording once and reports what came out.

    Args:
        url: `ws://host:port`.
        recording: What is said.
        conversation_id: The call; None for a fresh one.
        tenant_id: Owner; None leaves it to the server.
        token: Bearer token, None in anonymous mode.
        speed: 1.0 for real time, None for as fast as possible.
        seconds: Stream only the beginning.
    """

    def __init__(
        self,
        url: str,
        recording: Recording,
        *,
        conversation_id: str | None = None,
        tenant_id: str | None = None,
        token: str | None = None,
        speed: float | None = 1.0,
        seconds: float | None = None,
    ) -> None:
        self._url = url.rstrip("/").replace("http", "ws", 1) if url.startswith("http") else url.rstrip("/")
        self._conversation_id = conversation_id or f"replay-{secrets.token_hex(6)}"
        self._tenant_id = tenant_id
        self._token = token
        self._report = ReplayReport(self._conversation_id, is_real_time=speed is not None)
        self._source = Source(
            self._url,
            self._conversation_id,
            recording,
            tenant_id=tenant_id,
            token=token,
            speed=speed,
            seconds=seconds,
        )
        self._subscribed = asyncio.Event()

    async def run(
        self,
        *,
        progress: Callable[[float], None] = lambda _: None,
        on_publication: Callable[[Publication], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Stream and listen until the call ended.

        Returns:
            The report of DESIGN 13.

        Raises:
            CuelineError: The server is not there, refuses, or does not end the call.
        """
        channel = call_channel(self._conversation_id)
        async with FeedClient(self._url, tenant_id=self._tenant_id, token=self._token) as feed:
            listener = asyncio.create_task(self._listen(feed, on_publication), name="replay-feed")
            try:
                await feed.subscribe(channel)
                await self._until(self._subscribed.wait(), listener, SUBSCRIBE_TIMEOUT_S, "the feed does not answer")
                await self._source.run(progress)
                await self._until(listener, listener, LAST_WORDS_TIMEOUT_S, "the feed does not say that the call ended")
            finally:
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)
        return self._report.build()

    async def _listen(self, feed: FeedClient, on_publication: Callable[[Publication], None]) -> None:
        async for event in feed.events():
            match event:
                case Subscribed():
                    self._subscribed.set()
                case Received(publication, received_s):
                    received_ms = wall_ms() - (time.monotonic() - received_s) * 1000
                    self._report.zero_s = self._source.zero_s or received_s
                    self._report.clock_offset_ms = feed.clock.offset_ms
                    self._report.add(publication, received_s, received_ms)
                    on_publication(publication)
                    if self._report.is_ended:
                        return
                case Refused(error):
                    raise Unavailable(f"the feed refuses: {error.code}: {error.message}", field=error.field)
                case Disconnected(code, reason, is_final) if is_final or not self._subscribed.is_set():
                    # A cut in the middle of a call is recovered from; a feed that never began is not there.
                    raise Unavailable(f"the feed at {self._url} cannot be reached ({code}: {reason})")

    @staticmethod
    async def _until(awaitable: Any, listener: asyncio.Task[None], timeout_s: float, message: str) -> None:
        """Wait for something, or for the listener's failure, but not for ever."""
        waiting = asyncio.ensure_future(awaitable)
        await asyncio.wait({waiting, listener}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if listener.done():
            await listener
        if not waiting.done():
            waiting.cancel()
            raise Unavailable(message)
