"""The port, and the web server that drains before it cuts connections."""

from __future__ import annotations

import asyncio
import socket as sockets
import ssl
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from server.wire.errors import ConfigError


async def _nothing() -> None:
    pass


class UvicornServer(uvicorn.Server):
    """Tells when it listens, and drains before it cuts connections.

    Args:
        config: uvicorn's.
        before_shutdown: Drains.
        linger: What goes on after that for connections that cannot be drained, while nobody new is let in; cancelled
            by a second SIGINT.
        private: Served as well, each with its own encryption instead of the port's.

    Attributes:
        on_started: Called when it listens.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        before_shutdown: Callable[[], Any],
        linger: Callable[[], Coroutine[Any, Any, None]] = _nothing,
        private: Sequence[tuple[sockets.socket, ssl.SSLContext]] = (),
    ) -> None:
        super().__init__(config)
        self._private = private
        self._before_shutdown = before_shutdown
        self._linger = linger
        self._lingering: asyncio.Task[None] | None = None
        self.on_started: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[sockets.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        for listener, context in self._private:
            self.servers.append(
                await asyncio.get_running_loop().create_server(
                    self._protocol, sock=listener, ssl=context, backlog=self.config.backlog
                )
            )
        if self.started:
            self.on_started()

    def _protocol(self) -> asyncio.Protocol:
        made: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = made(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals that stop us for good: uvicorn raises them again, before log and outbox are closed."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def shutdown(self, sockets: list[sockets.socket] | None = None) -> None:
        """Drain, linger, then cut."""
        await self._before_shutdown()
        for server in self.servers:  # who comes now finds another process
            server.close()
        for listener in sockets or []:
            listener.close()
        self._lingering = asyncio.create_task(self._linger(), name="linger")
        await asyncio.wait([self._lingering])
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn."""
        super().handle_exit(sig, frame)
        if self.force_exit and self._lingering is not None:
            # A signal's handler wakes no loop by itself.
            self._lingering.get_loop().call_soon_threadsafe(self._lingering.cancel)


def bind(host: str, port: int, *, is_shared: bool = False) -> sockets.socket:
    """Take the port.

    Args:
        host: Address.
        port: 0 takes a free one.
        is_shared: Other workers take it too, and the kernel deals connections out among them.

    Raises:
        ConfigError: It cannot be had.
    """
    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    listener = sockets.socket(family, sockets.SOCK_STREAM)
    listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
    if is_shared:
        listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", field="port") from None
    return listener
