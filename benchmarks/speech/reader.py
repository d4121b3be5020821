"""Reads the feeds of some calls in a process of its own: who sends fifty calls' audio is late to read.

python -m benchmarks.speech.reader URL CALL …    prints `ready`; when its standard input ends, what it measured
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
import uvloop

from server.replay.feed_client import FeedClient, Received, Subscribed
from server.wire.clock import wall_ms
from server.wire.feed import MAX_SUBSCRIPTIONS
from server.wire.ids import call_channel


class Readings(msgspec.Struct):
    """Milliseconds, one entry a final.

    Attributes:
        frame: From our ingest socket (T1) to the vendor's (T2), for the frame with its last sample.
        published: From the vendor's message (T3) to the transcript's publication (T4): the server alone.
        delivered: From the vendor's message to the reader's socket.
    """

    frame: list[float] = []
    published: list[float] = []
    delivered: list[float] = []


async def _follow(url: str, calls: list[str], readings: Readings, subscribed: asyncio.Semaphore) -> None:
    async with FeedClient(url) as feed:
        for name in calls:
            await feed.subscribe(call_channel(name))
        async for event in feed.events():
            match event:
                case Subscribed():
                    subscribed.release()
                case Received(publication, received_s) if (
                    publication.kind == "transcript" and publication.d["is_final"]
                ):
                    stamps = publication.t
                    if stamps.t1 and stamps.t2 and stamps.t3 and stamps.t4:
                        received_ms = wall_ms() - (time.monotonic() - received_s) * 1000
                        readings.frame.append(stamps.t2 - stamps.t1)
                        readings.published.append(stamps.t4 - stamps.t3)
                        readings.delivered.append(received_ms - stamps.t3)


async def main(url: str, calls: list[str]) -> None:
    readings, subscribed = Readings(), asyncio.Semaphore(0)
    groups = [calls[first : first + MAX_SUBSCRIPTIONS] for first in range(0, len(calls), MAX_SUBSCRIPTIONS)]
    followers = [asyncio.create_task(_follow(url, group, readings, subscribed)) for group in groups]
    for _ in calls:
        await subscribed.acquire()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for follower in followers:
        follower.cancel()
    await asyncio.gather(*followers, return_exceptions=True)
    print(msgspec.json.encode(readings).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2:]))
