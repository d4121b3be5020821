"""The port, and the web server that drains before it cuts connections."""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from server.wire.errors import ConfigError


class UvicornServer(uvicorn.Server):
    """Tells when it listens, and drains before it cuts connections.

    Args:
        config: uvicorn's.
        before_shutdown: Drains.

    Attributes:
        on_started: Called when it listens.
    """

    def __init__(self, config: uvicorn.Config, before_shutdown: Callable[[], Any]) -> None:
        super().__init__(config)
        self._before_shutdown = before_shutdown
        self.on_started: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[sockets.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self.on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals that stop us for good: uvicorn raises them again, before log and outbox are closed."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def shutdown(self, sockets: list[sockets.socket] | None = None) -> None:
        """Drain, then cut."""
        await self._before_shutdown()
        await super().shutdown(sockets)


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
