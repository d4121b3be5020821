"""A telephony system and what has to be in the log of its call."""

from __future__ import annotations

import asyncio
import json

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from server.log.redis import RedisLog
from tests.integration.fleet import channel
from tests.integration.seconds import RATE_HZ, one_second
from tests.server.ingest.adapters.conformance import FRAME_MS, Dialect, encode

FASTER = 4
"""Than anyone speaks: a call of ten seconds is over in three, and an outage of two is worth eight of it."""
AGENT = 60
"""The agent's seconds are others than the customer's."""
ANSWER_S = 20.0


class Vendor:
    """A telephony system that streams both sides of a call and does not care what is behind its socket."""

    def __init__(self, socket: ClientConnection, dialect: Dialect, call: str) -> None:
        self.socket = socket
        self.seconds = 0
        self._dialect = dialect
        self._call = call

    async def start(self) -> None:
        for frame in self._dialect.start(self._call):
            await self.socket.send(frame)

    async def speak(self, seconds: int) -> None:
        loop = asyncio.get_running_loop()
        step = RATE_HZ * FRAME_MS // 1000
        for _ in range(seconds):
            began_s = loop.time()
            sides = [encode(self._dialect.encoding, one_second(self.seconds + voice)) for voice in (0, AGENT)]
            frame_bytes = step * len(sides[0]) // RATE_HZ
            for number in range(1000 // FRAME_MS):
                at = number * frame_bytes
                index = self.seconds * 1000 // FRAME_MS + number
                parts = (side[at : at + frame_bytes] for side in sides)
                for frame in self._dialect.audio(self._call, index, *parts):
                    await self.socket.send(frame)
                await asyncio.sleep(began_s + (number + 1) * FRAME_MS / 1000 / FASTER - loop.time())
            self.seconds += 1

    async def hang_up(self) -> int:
        """Close code that it gets."""
        for frame in self._dialect.end(self._call):
            await self.socket.send(frame)
        async with asyncio.timeout(ANSWER_S):
            try:
                while True:
                    await self.socket.recv()
            except ConnectionClosed:
                return self.socket.close_code


async def own(url: str, call: str) -> ClientConnection:
    """Let a process have a call: somebody streams its words there."""
    socket = await connect(f"{url}/v1/ingest/transcripts", proxy=None)
    await socket.send(json.dumps({"type": "start", "conversation_id": call, "agent_id": "anna"}))
    assert json.loads(await socket.recv())["type"] == "started"
    return socket


async def leave(socket: ClientConnection) -> None:
    await socket.send(json.dumps({"type": "stop", "call_ended": False}))
    async with asyncio.timeout(ANSWER_S):
        assert json.loads(await socket.recv())["type"] == "stopped"
    await socket.close()


async def check(log: RedisLog, call: str, seconds: int) -> None:
    """Every second of both sides is in the log once, whole and at its time, and the call ended once, by its system."""
    entries = await log.read(channel(call), None, 10**5)
    said = [json.loads(entry.body)["d"] for entry in entries if entry.kind == "transcript"]
    finals = [(one["speaker"], one["start_ms"], one["end_ms"], one["text"]) for one in said if one["is_final"]]
    assert sorted(finals) == sorted(
        (speaker, number * 1000, number * 1000 + 1000, f"second {number + voice}")
        for speaker, voice in (("customer", 0), ("agent", AGENT))
        for number in range(seconds)
    )
    assert [entry for entry in entries if entry.kind == "gap"] == []
    states = [json.loads(entry.body)["d"] for entry in entries if entry.kind == "call"]
    assert [one["reason"] for one in states if one["state"] == "ended"] == ["stopped"]
