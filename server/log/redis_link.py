"""One connection to Redis: commands in, replies out, pipelined as they come.

    run(command) ──▶ waiting ──▶ one pipeline a round trip ──▶ replies
                       ▲ what was not answered goes again while its time lasts ┘ reset: back-off, reconnect

While one pipeline is on its way the next one gathers, so a busy log writes in batches and an idle one at once. After a
time-out's length without a connection commands are refused at once instead of waiting each for itself: that is the
breaker, and a connection that answers closes it. Works on Redis and Valkey. Source: OPERATIONS d3, d4.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, Final, cast

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from server.wire.errors import ConfigError, Unavailable

logger = logging.getLogger(__name__)

MAX_BATCH_COMMANDS = 256
MAX_WAITING = 10_000
"""Commands that may wait; a log that is so far behind refuses more."""
RETRY_BASE_S, RETRY_CAP_S = 0.01, 1.0

LIFE: Final = object()
"""Argument that becomes the server's run id when the command is sent: which life of the server answers."""


class Script:
    """A Lua script, called by its hash; every connection loads it first."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = sha1(text.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], *args: object) -> tuple[object, ...]:
        """The command that runs it."""
        return ("EVALSHA", self.digest, len(keys), *keys, *args)


def connection_to(url: str, password: str, timeout_s: float) -> AbstractConnection:
    """A connection that is not made yet and never repairs itself: whoever owns it does.

    Args:
        url: `redis://user@host:port/0`, `rediss://…?ssl_ca_certs=F` for TLS, `unix://…`.
        password: Of the user; wins over the one in the URL, which then needs none.
        timeout_s: To connect.

    Raises:
        ConfigError: The URL is none.
    """
    secret = {"password": password} if password else {}
    try:
        pool: ConnectionPool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        pool.connection_kwargs.update(secret)
        return cast(AbstractConnection, pool.make_connection())
    except (ValueError, TypeError, OSError, RedisError) as error:
        raise ConfigError(f"is not the address of a Redis: {error}", field="log.url") from None


@dataclass(slots=True)
class _Waiting:
    command: tuple[object, ...]
    deadline_s: float
    reply: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class RedisLink:
    """A connection with a life of its own. Used from the event loop.

    Args:
        connect: Makes a connection, see `connection_to`.
        scripts: Loaded by every connection.
        timeout_s: What a command may take, reconnecting included.
        on_up: Told after a connection was made again, when commands are taken.

    Attributes:
        life: Run id of the server that answers; another one after it restarted or a replica took over.
        back_since_s: Loop time since which it answers again after it was away.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        scripts: Sequence[Script],
        *,
        timeout_s: float,
        on_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.life = ""
        self.back_since_s = float("-inf")
        self.on_up = on_up
        self._connect = connect
        self._scripts = scripts
        self._timeout_s = timeout_s
        self._connection: AbstractConnection | None = None
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._down_since_s: float | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Connected, or cut so briefly that waiting is worth it."""
        down_s = self._down_since_s
        return down_s is None or asyncio.get_running_loop().time() - down_s < self._timeout_s

    async def start(self) -> None:
        """Connect.

        Raises:
            ConfigError: No Redis answers there, or it does not let us in.
        """
        try:
            async with asyncio.timeout(max(5.0, self._timeout_s)):
                await self._open()
        except AuthenticationError:
            raise ConfigError("Redis refuses this user or its password", field="log.password") from None
        except NoPermissionError as error:
            raise ConfigError(f"Redis grants its user too little: {_public(error)}", field="log.url") from None
        except (RedisError, OSError, TimeoutError) as error:
            raise ConfigError(f"no Redis answers there: {_public(error)}", field="log.url") from None
        self._task = asyncio.create_task(self._run(), name="redis-link")
        self._task.add_done_callback(_loud)

    async def stop(self) -> None:
        """Refuse what still waits and disconnect."""
        if self._task is not None:
            await end(self._task)
        self._refuse("the log is being stopped")
        await self._close()

    async def run(self, *command: object) -> Any:
        """The reply to a command. Replies are bytes, integers and lists of them.

        Raises:
            Unavailable: No reply within the time-out; it may have been carried out all the same.
        """
        if not self.is_up or len(self._waiting) >= MAX_WAITING:
            raise Unavailable("the event log cannot be reached at present")
        waiting = _Waiting(command, asyncio.get_running_loop().time() + self._timeout_s)
        self._waiting.append(waiting)
        self._wake.set()
        try:
            async with asyncio.timeout_at(waiting.deadline_s):
                return await waiting.reply
        except TimeoutError:
            raise Unavailable("the event log does not answer in time") from None

    async def _run(self) -> None:
        num_failures = 0
        while True:
            try:
                if self._connection is None:
                    async with asyncio.timeout(max(1.0, self._timeout_s)):
                        await self._open()
                    logger.info("the event log's Redis answers again")
                    num_failures = 0
                    self.back_since_s = asyncio.get_running_loop().time()
                    self.on_up()
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    await self._exchange()
            except (RedisError, OSError, TimeoutError) as error:
                now_s = asyncio.get_running_loop().time()
                if self._down_since_s is None:
                    self._down_since_s = now_s
                    logger.warning("the event log's Redis does not answer", extra={"reason": _public(error)})
                await self._close()
                if not self.is_up:
                    self._refuse("the event log cannot be reached at present")
                await asyncio.sleep(random.uniform(0, min(RETRY_CAP_S, RETRY_BASE_S * 2**num_failures)))
                num_failures = min(num_failures + 1, 20)
                self._wake.set()

    async def _open(self) -> None:
        """Connect, load the scripts, learn which life of the server this is."""
        connection = self._connect()
        try:
            await connection.connect()
            # TIME is what leases go by, and in none of the ACL's groups but @fast: better told now than by every lease.
            loads = [("SCRIPT", "LOAD", script.text) for script in self._scripts]
            commands = [("INFO", "server"), ("TIME",), *loads]
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            info, *_ = [await connection.read_response() for _ in commands]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        lines = bytes(info).decode().splitlines()
        self.life = next(line.partition(":")[2] for line in lines if line.startswith("run_id:"))
        self._connection, self._down_since_s = connection, None

    async def _exchange(self) -> None:
        """One pipeline: as many as wait, up to a bound. What was sent and not answered stays at the front."""
        connection = self._connection
        assert connection is not None
        now_s = asyncio.get_running_loop().time()
        while self._waiting and (self._waiting[0].reply.done() or self._waiting[0].deadline_s <= now_s):
            self._waiting.popleft()
        batch = [self._waiting[number] for number in range(min(len(self._waiting), MAX_BATCH_COMMANDS))]
        if not batch:
            return
        packed = connection.pack_commands(
            [
                [self.life if argument is LIFE else cast(bytes, argument) for argument in waiting.command]
                for waiting in batch
            ]
        )
        async with asyncio.timeout(self._timeout_s):
            await connection.send_packed_command(packed, check_health=False)
            for waiting in batch:
                try:
                    reply = await connection.read_response()
                except ResponseError as error:
                    if str(error).startswith(("NOSCRIPT", "READONLY", "LOADING", "MASTERDOWN")):
                        raise  # not the server we knew: look again who answers there
                    reply = error
                self._waiting.popleft()
                if waiting.reply.done():
                    continue
                if isinstance(reply, ResponseError):
                    logger.error("Redis refuses a command of the event log", extra={"reason": _public(reply)})
                    waiting.reply.set_exception(Unavailable("the event log refuses this at present"))
                else:
                    waiting.reply.set_result(reply)

    def _refuse(self, message: str) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.reply.done():
                waiting.reply.set_exception(Unavailable(message))

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a task until it ends: a cancellation that meets a time-out's own may be taken for that one."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.5)
    if not task.cancelled():
        task.exception()  # how it ended is told where it was waited for


def _public(error: BaseException) -> str:
    """Why, without what was sent: Redis quotes arguments in some of its errors."""
    if isinstance(error, AuthenticationError):
        return "it refuses this user or its password"
    if isinstance(error, NoPermissionError):
        command = re.search(r"'([\w|]+)' command", str(error))
        return f"the command {command[1].upper()} is refused" if command else "a key, channel or command is refused"
    if isinstance(error, ResponseError):
        return str(error).partition(" ")[0][:32]
    return type(error).__name__


def _loud(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("a task of the event log died", extra={"task": task.get_name()}, exc_info=error)
