"""A telephony source: streams a recording to `/v1/ingest/audio` as a switch would.

Frames leave on an absolute schedule, each when its last sample would have been captured, so a slow moment never
shifts the rest. With `speed=None` they leave as fast as the server acknowledges audio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from server.ingest.audio_client import AudioClient
from server.replay.recording import Recording
from server.wire.ingest import AudioStart

FRAME_MS = 20
WINDOW_MS = 20_000
"""Unacknowledged audio a fast source may have on the way: more than the longest utterance, less than the ring."""
STOP_LIMIT_S = 60.0
"""What was sent faster than real time takes a while to recognise."""


class Source:
    """Streams one recording once.

    Args:
        url: `ws://host:port`, without a path.
        conversation_id: The call.
        recording: What is said.
        agent_id: Whose call; None leaves it to the server.
        tenant_id: Owner; None leaves it to the server.
        token: Bearer token, None in anonymous mode.
        speed: 1.0 for real time, None for as fast as possible.
        seconds: Stream only so much.
    """

    def __init__(
        self,
        url: str,
        conversation_id: str,
        recording: Recording,
        *,
        agent_id: str | None = None,
        tenant_id: str | None = None,
        token: str | None = None,
        speed: float | None = 1.0,
        seconds: float | None = None,
    ) -> None:
        self._recording = recording
        self._speed = speed
        self._seconds = seconds
        start = AudioStart(
            conversation_id=conversation_id,
            encoding="linear16",
            sample_rate_hz=recording.sample_rate_hz,
            layout="stereo",
            roles=["customer", "agent"],
            agent_id=agent_id,
            tenant_id=tenant_id,
        )
        self._acked = asyncio.Event()
        self._client = AudioClient(url, start, token=token, on_stored=self._acked.set)
        self.zero_s: float | None = None
        """Monotonic time at which audio time 0 was spoken, set when streaming begins."""

    async def run(self, progress: Callable[[float], None] = lambda _: None) -> None:
        """Stream it and stop.

        Args:
            progress: Told the share sent, 0 to 1.

        Raises:
            Unavailable: Nobody answers at the address, or the socket broke.
            Refused: The server refused; its own words.
        """
        await self._client.open()
        try:
            await self._stream(progress)
            await self._client.stop(limit_s=STOP_LIMIT_S)
        finally:
            await self._client.close()

    async def _stream(self, progress: Callable[[float], None]) -> None:
        frames = self._recording.frames(FRAME_MS, self._seconds)
        self.zero_s = time.monotonic()
        for index, frame in enumerate(frames):
            end_ms = (index + 1) * FRAME_MS
            if self._speed is not None:
                delay_s = self.zero_s + end_ms / 1000 / self._speed - time.monotonic()
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
            else:
                await self._window(end_ms)
            await self._client.send(frame)
            if index % 25 == 0 or index + 1 == len(frames):
                progress((index + 1) / len(frames))

    async def _window(self, end_ms: int) -> None:
        while end_ms - self._client.stored_ms > WINDOW_MS and not self._client.is_broken:
            self._acked.clear()
            await self._acked.wait()
