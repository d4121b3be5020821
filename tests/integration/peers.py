"""Small real clients of the three sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from websockets import ConnectionClosed
from websockets.asyncio.client import ClientConnection, connect

from server.replay.feed_client import FeedClient, Received, Subscribed
from server.wire.ids import call_channel
from server.wire.publication import Publication

AUDIO_START = {
    "type": "start",
    "encoding": "linear16",
    "sample_rate_hz": 8000,
    "layout": "stereo",
    "roles": ["customer", "agent"],
}


def audio_start(conversation_id: str, **changes: Any) -> dict[str, Any]:
    return AUDIO_START | {"conversation_id": conversation_id} | changes


def utterance(utterance_id: str, text: str, revision: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "type": "utterance",
        "utterance_id": utterance_id,
        "revision": revision,
        "speaker": "customer",
        "start_ms": 0,
        "end_ms": 1000,
        "text": text,
        "is_final": True,
    } | changes


class Peer:
    """A socket that speaks JSON."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, message: dict[str, Any] | str | bytes) -> None:
        await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def receive(self, timeout_s: float = 10.0) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s):
            return json.loads(await self.socket.recv())

    async def receive_type(self, wanted: str) -> dict[str, Any]:
        """Next message of a type; acknowledgements and the like in between are passed over."""
        while True:
            message = await self.receive()
            if message["type"] == wanted:
                return message

    async def closed(self, timeout_s: float = 10.0) -> int:
        async with asyncio.timeout(timeout_s):
            with contextlib.suppress(ConnectionClosed):
                async for _ in self.socket:  # what is still on the way holds the close frame up
                    pass
        return self.socket.close_code or 0


class Dial:
    """`async with Dial(server, path) as peer`."""

    def __init__(self, url: str, path: str, **options: Any) -> None:
        self._connection = connect(url + path, compression=None, max_size=None, **options)

    async def __aenter__(self) -> Peer:
        return Peer(await self._connection.__aenter__())

    async def __aexit__(self, *details: Any) -> None:
        await self._connection.__aexit__(*details)


async def collect(url: str, conversation_id: str, until, timeout_s: float = 20.0, **options: Any) -> list[Publication]:
    """Follow a call's feed until a publication fulfils `until`."""
    found: list[Publication] = []
    async with asyncio.timeout(timeout_s), FeedClient(url, **options) as feed:
        await feed.subscribe(call_channel(conversation_id))
        async for event in feed.events():
            if isinstance(event, Received):
                found.append(event.publication)
                if until(event.publication):
                    return found
            elif isinstance(event, Subscribed) and event.is_lost:
                raise AssertionError("the feed could not recover")
    raise AssertionError("the feed ended")


def is_ended(publication: Publication) -> bool:
    return publication.kind == "call" and publication.d["state"] == "ended"
