"""The demo: plays a recording into this very server, over its own socket, as a switch would.

A call at a time: a second one beside it would make the page jump between two. Source: issue "Live guidance", the demo.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from pathlib import Path

from server.replay.recording import Recording, read_stereo
from server.replay.source import Source
from server.wire.errors import Conflict, CuelineError, NotFound

log = logging.getLogger(__name__)


class DemoPlayer:
    """Plays one call at a time.

    Args:
        url: Gives the server's own `http://host:port`, known once it listens.
        folder: Holds the rendered demo calls, one `<tenant>.wav` each.
    """

    def __init__(self, url: Callable[[], str], folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._playing: asyncio.Task[None] | None = None

    async def play(self, recording: bytes | None, tenant_id: str | None) -> str:
        """Begin to play the tenant's demo call, or a two-channel recording.

        Returns:
            Id of the conversation, which is starting.

        Raises:
            Conflict: One is playing.
            NotFound: The demo call was not rendered.
            BadAudio: The recording is not a two-channel one that can be read.
        """
        if self._playing is not None and not self._playing.done():
            raise Conflict("a call is being played; wait until it ends")
        path = self._folder / f"{tenant_id}.wav"
        if recording is None and not path.is_file():
            raise NotFound("the demo call is not there: `cueline demo render` makes it")
        loaded = await asyncio.to_thread(read_stereo, recording if recording is not None else path)
        conversation_id = f"demo-{secrets.token_hex(4)}"
        self._playing = asyncio.create_task(self._stream(conversation_id, loaded, tenant_id), name="demo")
        return conversation_id

    async def stop(self) -> None:
        """Break off."""
        if self._playing is not None:
            self._playing.cancel()
            await asyncio.gather(self._playing, return_exceptions=True)

    async def _stream(self, conversation_id: str, recording: Recording, tenant_id: str | None) -> None:
        url = self._url().replace("http", "ws", 1)
        try:
            await Source(url, conversation_id, recording, tenant_id=tenant_id).run()
        except CuelineError as error:
            log.warning("the demo call broke off", extra={"code": error.code})
