"""One contact's sides on their way to the server: a socket a role, on one clock.

    Placed(role, position, samples) ──trim what is there already──▶ whole milliseconds ──▶ /v1/ingest/audio

A side that is read again after a broken connection, or by another process, is trimmed to the sample: the server says
how far it has come, and everything before that is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from server.ingest.audio_client import AudioClient
from server.ingest.connect.fragments import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from server.ingest.connect.timeline import SAMPLES_PER_MS, Placed
from server.wire.ids import AgentId, Speaker
from server.wire.ingest import AudioStart

MAX_FRAME_SAMPLES: Final = 8_000
"""Long silence is cut into frames of a second."""
MAX_SILENCE_S: Final = 10
"""A longer hole, a hold say, is not sent but jumped over: a recogniser would have to listen to all of it first."""
_MS_BYTES: Final = SAMPLES_PER_MS * BYTES_PER_SAMPLE


class Side:
    """One role's source.

    Args:
        role: Whose voice.
        client: Not opened yet.
    """

    def __init__(self, role: Speaker, client: AudioClient) -> None:
        self.role = role
        self.client = client
        self.next = 0
        """Position of the first sample that the server does not have."""
        self._rest = b""  # less than a millisecond: the server's clock counts whole ones
        self._rest_at = 0

    async def open(self) -> None:
        """Connect; `next` says from where to read."""
        await self.client.open()
        self.next = self._rest_at = self.client.resume_from_ms * SAMPLES_PER_MS

    async def send(self, placed: Placed) -> bool:
        """Send what the server does not have of it. Returns whether there was any."""
        skipped = max(0, self._rest_at - placed.position)
        pcm = self._rest + placed.pcm[skipped * BYTES_PER_SAMPLE :]
        whole = len(pcm) - len(pcm) % _MS_BYTES
        for at in range(0, whole, MAX_FRAME_SAMPLES * BYTES_PER_SAMPLE):
            frame = pcm[at : min(whole, at + MAX_FRAME_SAMPLES * BYTES_PER_SAMPLE)]
            await self.client.send(frame)
            self.next += len(frame) // BYTES_PER_SAMPLE
        self._rest = pcm[whole:]
        self._rest_at = self.next + len(self._rest) // BYTES_PER_SAMPLE
        return skipped * BYTES_PER_SAMPLE < len(placed.pcm)

    async def flush(self) -> None:
        """Send what is less than a millisecond, at the very end."""
        if self._rest:
            await self.client.send(self._rest)
            self.next = self._rest_at
            self._rest = b""


class Sides:
    """The sides of one contact, opened as they begin to speak.

    Args:
        connect: Makes a client for a `start` message.
        start: What every side announces, apart from its role and first sample.
    """

    def __init__(
        self, connect: Callable[[AudioStart], AudioClient], start: Callable[[Speaker, int], AudioStart]
    ) -> None:
        self._connect = connect
        self._start = start
        self.agent_id: AgentId | None = None
        """Who took the contact after it began; each side that is opened says so."""
        self._open: dict[Speaker, Side] = {}

    @property
    def roles(self) -> tuple[Speaker, ...]:
        """Sides that are open."""
        return tuple(self._open)

    def next(self) -> list[int]:
        """Where each open side goes on."""
        return [side.next for side in self._open.values()]

    def stored_ms(self) -> int:
        """Everything said before is safe, on every side."""
        return min((side.client.stored_ms for side in self._open.values()), default=0)

    async def open(self, role: Speaker, position: int) -> None:
        """Open a side whose first sample has this position. Raises as `AudioClient.open`."""
        start_ms = position // SAMPLES_PER_MS
        side = Side(role, self._connect(self._start(role, start_ms)))
        await side.open()
        if self.agent_id is not None:
            await side.client.assign(self.agent_id)
        self._open[role] = side

    async def send(self, placed: Placed) -> bool:
        """Send samples to their side, which is opened if it speaks for the first time.

        Returns:
            Whether any of them is new to the server.
        """
        if placed.role not in self._open:
            await self.open(placed.role, placed.position)
        side = self._open[placed.role]
        end = placed.position + len(placed.pcm) // BYTES_PER_SAMPLE
        if placed.is_filled and end - side.next > MAX_SILENCE_S * SAMPLE_RATE_HZ:
            del self._open[placed.role]
            await side.flush()
            await side.client.stop(call_ended=False)
            await self.open(placed.role, end)
            return True
        return await side.send(placed)

    async def assign(self, agent_id: AgentId) -> None:
        """An agent took the contact. Raises as `AudioClient.send`; a side that is opened anew says it again."""
        self.agent_id = agent_id
        for side in list(self._open.values())[:1]:
            await side.client.assign(agent_id)

    async def keep_alive(self) -> None:
        """Nothing to send, but the call lives."""
        for side in self._open.values():
            await side.client.keep_alive()

    async def stop(self) -> None:
        """The call is over: returns when its last words are stored. Raises as `AudioClient.stop`."""
        sides = list(self._open.values())
        for side in sides:
            await side.flush()
        results = await asyncio.gather(*(side.client.stop() for side in sides), return_exceptions=True)
        await self.close()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def drop_broken(self) -> None:
        """Forget the sides whose connection is gone; they are opened anew, and say how far the server is."""
        for role, side in list(self._open.items()):
            if side.client.is_broken:
                del self._open[role]
                await side.client.close()

    async def close(self) -> None:
        """Leave without a word; the call waits."""
        sides, self._open = list(self._open.values()), {}
        await asyncio.gather(*(side.client.close() for side in sides))


def start_message(
    conversation_id: str,
    tenant_id: str | None,
    agent_id: str | None,
    customer_id: str | None,
    language: str | None,
) -> Callable[[Speaker, int], AudioStart]:
    """Make the `start` messages of a contact's sides."""

    def start(role: Speaker, start_ms: int) -> AudioStart:
        return AudioStart(
            conversation_id=conversation_id,
            encoding="linear16",
            sample_rate_hz=SAMPLE_RATE_HZ,
            layout="mono",
            roles=[role],
            agent_id=agent_id,
            customer_id=customer_id,
            tenant_id=tenant_id,
            language=language,
            start_ms=start_ms,
        )

    return start
