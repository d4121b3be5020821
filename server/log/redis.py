"""The event log on Redis Streams (or Valkey): one log that every process appends to, reads and follows.

    append ──▶ one script: fence, offset, stream, snapshot, push ──▶ followers here     before `append` returns
                                                              └────▶ followers elsewhere, by push

Redis is the truth: nobody is shown what it has not taken. What it has not taken within the time-out begins a life of
its own: the channel goes on in this process under a new epoch, so that every reader is told, and is put back into Redis
when that answers again, unless another process owns the channel by then. The same happens when Redis lost its memory:
its run id is part of every append, so a server that restarted or a replica that took over is never mistaken for the
old one. A stale owner is refused by its fence. Source: DESIGN 6, OPERATIONS d2 to d4.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from server.keys.keyring import Keyring
from server.log.channel import new_epoch
from server.log.contract import ChannelKey, Entry, Event, Position, Recovery, Sink, ignore
from server.log.leases import Fenced
from server.log.redis_follow import Follower
from server.log.redis_held import Held, RedisLimits
from server.log.redis_keys import INDEX, Keys, channel_of, entry_of_push, flags_of, moved
from server.log.redis_link import LIFE, RedisLink, Script, connection_to, end
from server.log.redis_push import RedisPush
from server.log.redis_read import RedisReader
from server.log.redis_scripts import ALL, APPEND
from server.log.redis_seal import Seal
from server.log.redis_sweep import sweep
from server.log.snapshot import States
from server.wire.errors import Gone, Unavailable
from server.wire.publication import Kind, Notice

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 16
"""Writers of one channel that overtake each other so often in a row do not happen; a loop without end must not."""
MEND_EVERY_S = 1.0
OVERTAKEN_S = 0.001
"""Longest pause after being overtaken for the second time, growing with each further time."""


class RedisLog:
    """`EventLog` on Redis.

    Args:
        url: `redis://user@host:port/0`, `rediss://…?ssl_ca_certs=F` for TLS, `unix://…`.
        password: Of the user; wins over the one in the URL, which then needs none.
        timeout_s: What Redis may take to answer, reconnecting included; then a channel goes on without it.
        scripts: Further ones to load, of what else lives in the same Redis.
        limits: Bounds.
        keys: Seal what is said; None: it lies in Redis as it is.
        on_notice: Told when the log stops and starts being shared.
        now_s: Monotonic clock.

    Attributes:
        link: Its connection, for what else lives in the same Redis.
        keys: What seals, for the same.
    """

    def __init__(
        self,
        url: str,
        password: str = "",
        *,
        timeout_s: float = 0.5,
        scripts: Sequence[Script] = (),
        limits: RedisLimits | None = None,
        keys: Keyring | None = None,
        on_notice: Callable[[Notice], None] = lambda _: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        connect = partial(connection_to, url, password, timeout_s)
        self.link = self._link = RedisLink(connect, [*ALL, *scripts], timeout_s=timeout_s, on_up=self._on_up)
        self._push = RedisPush(connect, self._on_message, self._on_joined, timeout_s=timeout_s)
        self._limits = limits or RedisLimits()
        self.keys, self._seal = keys, Seal(keys)
        self._reader = RedisReader(self._link, self._limits, self._seal, now_s)
        self._on_notice = on_notice
        self._now_s = now_s
        self._held: dict[ChannelKey, Held] = {}
        self._followers: dict[str, Follower] = {}
        self._listeners: dict[str, Callable[[bytes], None]] = {}
        self._batches = itertools.count(1)
        self._name = new_epoch()
        self._tasks: set[asyncio.Task[None]] = set()
        self._shared = asyncio.Event()
        self._shared.set()

    async def start(self) -> None:
        """Connect.

        Raises:
            ConfigError: No Redis answers there, or it does not let us in.
        """
        await self._link.start()
        self._push.start()
        self._spawn(self._sweep())

    async def stop(self) -> None:
        """Disconnect. What is still detached is lost with this process; the next epoch tells its readers."""
        if num := sum(held.is_detached for held in self._held.values()):
            logger.error("channels end with what Redis never took", extra={"channels": num})
        await asyncio.gather(*map(end, self._tasks), self._push.stop())
        await self._link.stop()

    # -- append -------------------------------------------------------------------------------------------------

    async def append(self, key: ChannelKey, events: Sequence[Event], memory: bytes = b"") -> tuple[Entry, ...]:
        """Append in order; followers see the entries before this returns. `memory`: see `EventLog`.

        Waits for Redis at most for the link's time-out, then goes on without it.

        Raises:
            Fenced: Another process owns this call by now.
        """
        held = self._held.setdefault(key, Held(key))
        held.touched_s = self._now_s()
        if not events:
            return ()
        async with held.lock:
            held.memory = memory or held.memory
            if not held.is_detached:
                try:
                    return await self._publish(held, events, memory)
                except Unavailable:
                    self._detach(held)
                except Gone:
                    return ()  # the tenant's key was destroyed: nobody could read it
            entries = held.encoded(events, self._now_s())
            held.take(entries, self._limits.max_local_entries)
            self._tell(key, entries)
            return entries

    async def _publish(self, held: Held, events: Sequence[Event], memory: bytes) -> tuple[Entry, ...]:
        """Append to Redis, wherever the channel stands there."""
        for attempt in range(MAX_ATTEMPTS):
            if attempt > 1:  # writers in step overtake each other until one of them misses a beat
                await asyncio.sleep(random.uniform(0, OVERTAKEN_S * attempt))
            if not held.epoch:
                await self._load(held)
            entries = held.encoded(events, self._now_s())
            verdict = await self._append(held, held.position, entries, entries[-1].position, held.floor, memory)
            if verdict is None:
                held.take(entries, self._limits.max_local_entries)
                self._tell(held.key, entries)
                return entries
            await self._adjust(held, verdict[0], is_same_life=verdict[1])
        raise Unavailable("the channel does not hold still")

    async def _append(
        self,
        held: Held,
        old: Position,
        entries: Sequence[Entry],
        new: Position,
        floor: int,
        memory: bytes | None = None,
    ) -> tuple[Position, bool] | None:
        """Run the script. None: done; else where the channel stands, and whether in the server's present life.

        `memory` goes with the entries; None: all that is held, because Redis may have lost it.

        Raises:
            Fenced: Another process owns this call by now.
            Unavailable: Redis does not answer.
        """
        keys = Keys.of(held.key)
        fields: list[object] = []
        for entry in entries:
            fields += (
                entry.position.offset,
                entry.kind,
                entry.key,
                flags_of(entry),
                self._seal.close(held.key, entry.body),
            )
        verdict, *where = await self._link.run(
            *APPEND.call(
                (keys.stream, keys.states, keys.meta, keys.fence, keys.memory, INDEX),
                *(LIFE, held.owner_fence, old.epoch, old.offset, new.epoch, new.offset, floor),
                f"{self._name}-{next(self._batches)}",
                *(int(time.time() * 1000), int(self._limits.retention_s * 1000), self._limits.max_stream_entries),
                self._seal.close(held.key, held.memory if memory is None else memory),
                *fields,
            )
        )
        if verdict == b"fenced":
            raise Fenced("another process owns this call", field="conversation_id")
        if verdict == b"ok":
            return None
        epoch, last, life = where
        return Position(epoch.decode(), int(last)), life.decode() == self._link.life

    async def _adjust(self, held: Held, position: Position, *, is_same_life: bool) -> None:
        """The channel is not where this process thought: others wrote, or Redis lost its memory.

        What the owner of a call knows is the truth. Any other goes on behind what is there, and says once more what it
        said in an epoch that is over.
        """
        if held.owner_fence:
            await self._renew(held, position)
        elif is_same_life and position.epoch == held.epoch:
            held.last = held.floor = position.offset
            held.tail.clear()
        else:
            await self._load(held)

    async def _renew(self, held: Held, old: Position) -> None:
        """Begin a new epoch in Redis with the states that this process knows."""
        held.renew()
        if await self._append(held, old, held.states.entries(), held.position, 0) is None:
            self._tell(held.key, held.states.entries())
            logger.warning("a channel goes on in a new epoch", extra={"states": len(held.states)})

    async def _load(self, held: Held) -> None:
        """Learn where the channel stands, and, of one that this process owns, all that is so far."""
        recovery = await self._recover(held.key, None)
        held.epoch = recovery.position.epoch
        held.last = held.floor = recovery.position.offset
        held.tail.clear()
        if held.owner_fence:
            held.states = States(recovery.snapshot)
        elif len(held.states):
            states = held.states.entries()
            again = [moved(entry, Position(held.epoch, held.last + n)) for n, entry in enumerate(states, 1)]
            if await self._append(held, held.position, again, again[-1].position, 0) is None:
                held.states = States()
                held.take(again, self._limits.max_local_entries)
                self._tell(held.key, again)
            else:
                held.epoch = ""  # somebody was quicker; once more

    def _detach(self, held: Held) -> None:
        """Go on in this process alone; the new epoch tells every reader."""
        held.renew()
        held.is_detached = True
        if self._shared.is_set():
            self._shared.clear()
            self._spawn(self._mend())
            self._on_notice(
                Notice(
                    code="log_not_shared",
                    message="Redis does not answer; guidance goes on in each process alone.",
                    severity="error",
                )
            )

    async def shared(self) -> None:
        """Return once nothing goes on in this process alone."""
        await self._shared.wait()

    async def _mend(self) -> None:
        """A Redis that answers and refuses, as a full one does, is asked again and again."""
        while not self._shared.is_set():
            await asyncio.sleep(MEND_EVERY_S)
            if self._link.is_up:
                await self._repair()

    def _on_up(self) -> None:
        self._spawn(self._repair())
        for follower in self._followers.values():  # pushes may be back for longer than the link
            self._spawn(self._catch_up(follower))

    async def _repair(self) -> None:
        """Put back into Redis what it does not have."""
        for held in tuple(self._held.values()):
            async with held.lock:
                try:
                    if held.is_detached:
                        await self._attach(held)
                    elif held.epoch and len(held.states):
                        keys = Keys.of(held.key)
                        epoch, life, last = await self._link.run("HMGET", keys.meta, "epoch", "life", "last")
                        position = Position((epoch or b"").decode(), int(last or 0))
                        is_same_life = (life or b"").decode() == self._link.life
                        if position != held.position or not is_same_life:
                            await self._adjust(held, position, is_same_life=is_same_life)
                except (Fenced, Gone):
                    self._drop(held)
                except Unavailable:
                    return  # it is away again, and will be back
        if not self._shared.is_set() and not any(held.is_detached for held in self._held.values()):
            self._shared.set()
            self._on_notice(
                Notice(code="log_shared", message="Redis answers; the event log is shared again.", severity="info")
            )

    async def _attach(self, held: Held) -> None:
        keys = Keys.of(held.key)
        epoch, last = await self._link.run("HMGET", keys.meta, "epoch", "last")
        old = Position((epoch or b"").decode(), int(last or 0))
        if held.owner_fence:
            # Its readers here stay where they are: the same epoch, the same offsets.
            recent = [entry for entry in held.tail if entry.position.offset > held.floor]
            older = [entry for entry in held.states.entries() if entry.position.offset <= held.floor]
            if await self._append(held, old, (*older, *recent), held.position, held.floor) is not None:
                raise Unavailable("the channel does not hold still")
        else:
            await self._load(held)
            self._start_over(held.key)
        held.is_detached = False
        if held.is_over:
            self._held.pop(held.key, None)

    def _drop(self, held: Held) -> None:
        """Another process owns it: what was said here alone is void, and its readers have to look again."""
        logger.warning("a channel was taken over by another process", extra={"offset": held.last})
        self._held.pop(held.key, None)
        self._start_over(held.key)

    def _start_over(self, key: ChannelKey) -> None:
        """What readers here were told since Redis went away is not what the log says."""
        if (follower := self._followers.get(Keys.of(key).stream)) is not None:
            follower.start_over()

    async def own(self, key: ChannelKey, fence: str) -> None:
        """From now on append with this fence; what the channel holds so far is loaded.

        Raises:
            Unavailable: Redis does not answer.
        """
        self._held[key] = Held(key, owner_fence=fence, touched_s=self._now_s())
        await self._load(self._held[key])

    def disown(self, key: ChannelKey) -> None:
        """Append no more: the call is over, or somebody else's."""
        held = self._held.get(key)
        if held is not None and held.is_detached:
            held.is_over = True
        elif held is not None:
            del self._held[key]

    async def recover(self, key: ChannelKey, after: Position | None) -> Recovery:
        """Complete tail after a known position, else snapshot.

        Raises:
            Unavailable: Redis does not answer, and this process does not own the call.
        """
        await self._joined(key)
        held = self._held.get(key)
        if held is not None and held.is_detached:
            return held.recovery(after)
        try:
            return await self._recover(key, after)
        except Unavailable:
            held = self._held.get(key)
            if held is None or not held.owner_fence:
                raise
            async with held.lock:
                if not held.is_detached:
                    self._detach(held)
            return held.recovery(after)

    async def _recover(self, key: ChannelKey, after: Position | None) -> Recovery:
        for _ in range(MAX_ATTEMPTS):
            recovery, is_stale = await self._reader.recover(key, after)
            if not is_stale:
                return recovery
            # Redis restarted with what it had saved; what it had not may have been seen, so this is a new epoch.
            renewed = Held(key, states=States(recovery.snapshot))
            renewed.renew()
            await self._append(renewed, recovery.position, renewed.states.entries(), renewed.position, 0)
        raise Unavailable("the channel does not hold still")

    async def memory(self, key: ChannelKey) -> bytes:
        """See `EventLog`."""
        held = self._held.get(key)
        return held.memory if held is not None and held.memory else await self._reader.memory(key)

    async def newest(self, key: ChannelKey, kind: Kind, state: str) -> Entry | None:
        """The newest entry of one state, without reading the others; None if there is none. Raises `Unavailable`."""
        return await self._reader.newest(key, kind, state)

    async def read(self, key: ChannelKey, after: Position | None, limit: int) -> tuple[Entry, ...]:
        """See `EventLog`. Raises also `Unavailable`, while Redis does not answer."""
        return await self._reader.read(key, after, limit)

    def follow(self, key: ChannelKey, sink: Sink, lost: Callable[[], None] = ignore) -> Callable[[], None]:
        """Call `sink` for every entry appended from now on, here or elsewhere; returns the function that ends it.

        `lost` is called when the channel went on without this process hearing all of it.
        """
        topic = Keys.of(key).stream
        follower = self._followers.get(topic)
        if follower is None:
            follower = self._followers[topic] = Follower(topic)
            self._push.subscribe(topic)
        return follower.add(sink, lost, lambda: self._unfollow(topic))

    def _unfollow(self, topic: str) -> None:
        follower = self._followers.get(topic)
        if follower is not None and follower.is_empty:
            del self._followers[topic]
            self._push.unsubscribe(topic)

    async def _joined(self, key: ChannelKey) -> None:
        """Wait until what is published from now on is pushed here, if somebody here follows."""
        topic = Keys.of(key).stream
        if topic in self._followers:
            with contextlib.suppress(TimeoutError):  # then the recovery itself says that Redis is away
                async with asyncio.timeout(1.0):
                    await self._push.joined(topic)

    def _tell(self, key: ChannelKey, entries: Sequence[Entry]) -> None:
        follower = self._followers.get(Keys.of(key).stream)
        if follower is not None:
            for entry in entries:
                if not follower.offer(entry):
                    self._spawn(self._catch_up(follower))

    def listen(self, topic: str, on_message: Callable[[bytes], None]) -> None:
        """Be told what other processes say under a topic that is no channel's."""
        self._listeners[topic] = on_message
        self._push.subscribe(topic)

    def _on_message(self, topic: str, data: bytes) -> None:
        if (listener := self._listeners.get(topic)) is not None:
            listener(data)
            return
        follower = self._followers.get(topic)
        if follower is None:
            return
        key = channel_of(topic)
        held = self._held.get(key)
        is_echo = held is not None and held.is_detached  # of what was before Redis went away
        if is_echo:
            return
        entry = self._seal.opened_now(key, entry_of_push(data, self._now_s()))
        if entry is None and follower.position is None:
            follower.lose()  # its key is fetched by whoever recovers now
        elif entry is None or not follower.offer(entry):
            self._spawn(self._catch_up(follower))

    def _on_joined(self, topic: str) -> None:
        if (follower := self._followers.get(topic)) is not None:
            self._spawn(self._catch_up(follower))

    async def _catch_up(self, follower: Follower) -> None:
        """Read what was not pushed."""
        key, after = channel_of(follower.topic), follower.position
        held = self._held.get(key)
        if held is not None and held.is_detached:
            return
        try:
            recovery = await self._recover(key, after)
        except (Unavailable, Gone):
            return  # after the reconnect it is asked again; what is sealed for ever is told to nobody
        follower.catch_up(after, recovery)

    async def trim(self, key: ChannelKey) -> int:
        """See `EventLog`. Raises `Unavailable` while Redis does not answer."""
        keys = Keys.of(key)
        last = int(await self._link.run("HGET", keys.meta, "last") or 0)
        await self._link.run("DEL", keys.stream, keys.states, keys.meta, keys.memory)
        await self._link.run("ZREM", INDEX, keys.stream)
        self._held.pop(key, None)
        return last

    async def channels(self) -> AsyncIterator[ChannelKey]:
        """All channels held, live and ended."""
        oldest_ms = int((time.time() - self._limits.retention_s) * 1000)
        for stream in await self._link.run("ZRANGEBYSCORE", INDEX, oldest_ms, "+inf"):
            yield channel_of(stream.decode())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep_s)
            now_s = self._now_s()
            for held in tuple(self._held.values()):
                is_idle = now_s - held.touched_s > self._limits.idle_s and not held.owner_fence and not held.is_detached
                if is_idle or (self.keys is not None and self.keys.is_destroyed(held.key.tenant_id)):
                    self._held.pop(held.key, None)
            with contextlib.suppress(Unavailable):
                await self.sweep()

    async def sweep(self) -> int:
        """See `redis_sweep.sweep`."""
        return await sweep(self._link, self._limits, self.trim)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="redis-log")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical("a task of the event log died", exc_info=error)
