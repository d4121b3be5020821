"""Serve a small ASGI application for as long as a block runs, and wait to be told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket
from typing import Any, Literal

import uvicorn

from server.wire.errors import ConfigError

GRACEFUL_STOP_S = 5


class _Uvicorn(uvicorn.Server):
    """Tells when it listens, and leaves signals to us."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_listening = asyncio.Event()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See the class."""
        yield


@asynccontextmanager
async def listening(
    application: Any, host: str, port: int, *, field: str, ws: Literal["none", "websockets-sansio"] = "none"
) -> AsyncIterator[str]:
    """Serve until the block ends; gives `http://host:port`.

    Args:
        application: ASGI.
        host: Address to listen on.
        port: 0 takes a free one.
        field: Which setting to name if that cannot be.
        ws: How WebSockets are served, if at all.

    Raises:
        ConfigError: The address cannot be had.
    """
    listener = socket(AF_INET6 if ":" in host else AF_INET, SOCK_STREAM)
    listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", field=field) from None
    bound = listener.getsockname()
    server = _Uvicorn(
        uvicorn.Config(
            application,
            loop="none",
            http="httptools",
            ws=ws,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACEFUL_STOP_S,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]), name="listen")
    try:
        await server.is_listening.wait()
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


async def told_to_stop() -> None:
    """Return at SIGINT or SIGTERM. Main thread only."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
