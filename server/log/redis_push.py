"""The other connection: what Redis pushes of the channels that somebody here follows.

    subscribe(topic) ──▶ on_joined(topic) ──▶ on_message(topic, data) …      after every reconnect the same again

A push is a shortcut, never the truth: after a cut the log reads what it missed from the stream. A connection that is
silent is asked for a sign of life, so that a half-open one is noticed within two intervals.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from server.log.redis_link import end

logger = logging.getLogger(__name__)

SIGN_OF_LIFE_S = 2.0
RETRY_BASE_S, RETRY_CAP_S = 0.01, 1.0
MAX_TOPICS_A_COMMAND = 500


class RedisPush:
    """Subscriptions that outlive connections. Used from the event loop.

    Args:
        connect: Makes a connection.
        on_message: Told of each push.
        on_joined: Told that a topic is pushed from now on, at first and after every reconnect.
        timeout_s: To connect and subscribe.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        on_message: Callable[[str, bytes], None],
        on_joined: Callable[[str], None],
        *,
        timeout_s: float,
    ) -> None:
        self._connect = connect
        self._on_message = on_message
        self._on_joined = on_joined
        self._timeout_s = timeout_s
        self._topics: dict[str, asyncio.Event] = {}
        self._changes: list[tuple[str, str]] = []
        self._changed = asyncio.Event()
        self._is_heard = True
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect in the background and stay connected."""
        self._task = asyncio.create_task(self._run(), name="redis-push")
        self._task.add_done_callback(_loud)

    async def stop(self) -> None:
        """Disconnect."""
        if self._task is not None:
            await end(self._task)

    def subscribe(self, topic: str) -> None:
        """Have a topic pushed; `joined` tells when it is."""
        if topic not in self._topics:
            self._topics[topic] = asyncio.Event()
            self._change("SUBSCRIBE", topic)

    def unsubscribe(self, topic: str) -> None:
        """Have it pushed no more."""
        if self._topics.pop(topic, None) is not None:
            self._change("UNSUBSCRIBE", topic)

    async def joined(self, topic: str) -> None:
        """Return once the topic is pushed; what is published from then on arrives. At once if nobody subscribed."""
        event = self._topics.get(topic)
        if event is not None:
            await event.wait()

    def _change(self, command: str, topic: str) -> None:
        self._changes.append((command, topic))
        self._changed.set()

    async def _run(self) -> None:
        num_failures = 0
        while True:
            connection = self._connect()
            try:
                async with asyncio.timeout(max(1.0, self._timeout_s)):
                    await connection.connect()
                num_failures = 0
                # The whole list goes out anew; what was asked for meanwhile is in it.
                self._changes = [("SUBSCRIBE", topic) for topic in self._topics]
                self._changed.set()
                self._is_heard = True
                writer = asyncio.create_task(self._write(connection), name="redis-push-writer")
                reader = asyncio.create_task(self._read(connection), name="redis-push-reader")
                try:
                    done, _ = await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                finally:
                    await asyncio.gather(end(writer), end(reader))
            except (RedisError, OSError, TimeoutError) as error:
                logger.warning("pushes of the event log are cut", extra={"reason": type(error).__name__})
            finally:
                await connection.disconnect(nowait=True)
            for event in self._topics.values():
                event.clear()
            num_failures += 1
            await asyncio.sleep(random.uniform(0, min(RETRY_CAP_S, RETRY_BASE_S * 2 ** min(num_failures, 20))))

    async def _write(self, connection: AbstractConnection) -> None:
        """Send what changed, many at once; ask a silent server for a sign of life, and cut one that gives none."""
        loop = asyncio.get_running_loop()
        ask_at_s = loop.time() + SIGN_OF_LIFE_S
        while True:
            alarm = loop.call_at(ask_at_s, self._changed.set)
            try:
                await self._changed.wait()
            finally:
                alarm.cancel()
            self._changed.clear()
            commands: list[list[str]] = []
            if loop.time() >= ask_at_s:
                if not self._is_heard:
                    await connection.disconnect(nowait=True)
                    return
                self._is_heard, ask_at_s = False, loop.time() + SIGN_OF_LIFE_S
                commands.append(["PING"])
            changes, self._changes = self._changes, []
            for command, topic in changes:
                if not commands or commands[-1][0] != command or len(commands[-1]) > MAX_TOPICS_A_COMMAND:
                    commands.append([command])
                commands[-1].append(topic)
            if not connection.is_connected:
                return  # the reader saw its end; sending would quietly open another one that nobody closes
            if commands:
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            message = await connection.read_response(timeout=math.inf)
            self._is_heard = True
            match message:
                case [b"message", bytes() as topic, bytes() as data]:
                    self._on_message(topic.decode(), data)
                case [b"subscribe", bytes() as topic, _]:
                    event = self._topics.get(topic.decode())
                    if event is not None:
                        event.set()
                        self._on_joined(topic.decode())


def _loud(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("a task of the event log died", extra={"task": task.get_name()}, exc_info=error)
