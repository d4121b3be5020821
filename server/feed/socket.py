"""One feed socket: performs what its `Session` decides and delivers what its channels carry.

receive ──▶ Session ──▶ effects ──▶ here ──▶ tickets, directory, log, commands
Hub ──▶ Subscription ──▶ SendQueue ──▶ Outlet
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from server.auth.identity import Identity
from server.auth.rights import Action, may, require
from server.auth.tickets import Redeemer
from server.feed.access import Directory, resource_of
from server.feed.hub import Hub
from server.feed.outgoing import Outgoing, Packet, answer_packets, message_packet
from server.feed.outlet import Message, outlet_for
from server.feed.queue import QueueLimits, SendQueue
from server.feed.session import (
    Close,
    Command,
    Effect,
    Limits,
    Redeem,
    Send,
    Session,
    Subscribe,
    Unsubscribe,
)
from server.feed.transport import LINGER_S
from server.log.contract import ChannelKey, Entry, EventLog, Position
from server.log.presence import Presence
from server.log.snapshot import States
from server.metrics import Metrics
from server.wire.clock import wall_ms
from server.wire.errors import CuelineError, NotFound, Unavailable
from server.wire.feed import Ask, CloseCode, Receipt, Say
from server.wire.ids import call_channel

if TYPE_CHECKING:
    from server.auth.rights import Resource

logger = logging.getLogger(__name__)

MAX_EARLY = 10_000
"""Publications that may arrive while one recovery is read; the log answers from memory, so a few are usual."""


class InternalError(CuelineError):
    """Our fault; its text stays in the log."""

    retryable = True


@dataclass(frozen=True, slots=True)
class Commands:
    """What the rooms behind the feed do with agents' messages; None: not on this server.

    Each is called with who it was, the channel and the message, rights checked. It may raise a `CuelineError`,
    which the agent is told. It holds up this socket's next message, so long work belongs in a task of its room.
    `on_follow` is told of every subscription that somebody asked for, and whether they may.
    """

    on_receipt: Callable[[Identity, ChannelKey, Receipt], Awaitable[None]] | None = None
    on_ask: Callable[[Identity, ChannelKey, Ask], Awaitable[None]] | None = None
    on_say: Callable[[Identity, ChannelKey, Say], Awaitable[None]] | None = None
    on_follow: Callable[[Identity, ChannelKey, bool], None] | None = None


@dataclass(frozen=True, slots=True)
class Rooms:
    """What every feed socket of a process shares.

    Attributes:
        log: The event log.
        hub: Fan-out of the log.
        tickets: Redeems tickets.
        directory: Whose channel is it.
        commands: Rooms behind the feed.
        metrics: Counters.
        limits: Of each session.
        queue_limits: Of each outgoing queue.
        clock: Monotonic.
        presence: Told who is signed in.
    """

    log: EventLog
    hub: Hub
    tickets: Redeemer
    directory: Directory
    commands: Commands
    metrics: Metrics
    limits: Limits
    queue_limits: QueueLimits
    clock: Callable[[], float]
    presence: Presence


class Subscription:
    """A socket's place in one channel. Checks that nothing is missing and nothing comes twice.

    Args:
        socket: Where publications go.
        key: The channel.
        resource: The channel in the rights table.
        adds_calls: It leads to the channels of an agent's calls.
    """

    __slots__ = ("_early", "_epoch", "_offset", "_socket", "adds_calls", "key", "resource", "sign_out")

    def __init__(self, socket: FeedSocket, key: ChannelKey, resource: Resource, *, adds_calls: bool) -> None:
        self.key = key
        self.adds_calls = adds_calls
        self.sign_out: Callable[[], None] = _nothing
        self.resource = resource
        self._socket = socket
        self._early: list[Entry] | None = []
        self._epoch = ""
        self._offset = 0

    def start(self, position: Position) -> None:
        """The recovery up to `position` is queued; continue with what was published meanwhile."""
        early, self._early = self._early or [], None
        self._epoch = position.epoch
        self._offset = position.offset
        for entry in early:
            self.deliver(Outgoing((entry,)))

    def deliver(self, publications: Outgoing) -> None:
        """See `hub.Reader`."""
        entries = publications.entries
        if self._early is not None:
            self._early += entries
            if len(self._early) > MAX_EARLY:
                self.lose()
            return
        position = entries[0].position
        if position.epoch != self._epoch:
            self._socket.cut(CloseCode.STATE_INVALIDATED, "the channel began anew")
        elif position.offset == self._offset + 1:
            self._offset += len(entries)
            self._socket.push(publications, self)
        elif position.offset > self._offset:
            self.lose()

    def lose(self) -> None:
        """See `hub.Reader`."""
        self._socket.cut(CloseCode.INSUFFICIENT_STATE, "publications are missing")


class FeedSocket:
    """Runs one accepted socket until it closes.

    Args:
        rooms: What all sockets share.
        scope: ASGI scope.
        send: ASGI send.
        is_binary: The subprotocol is MessagePack.
    """

    def __init__(
        self, rooms: Rooms, scope: Message, send: Callable[[Message], Awaitable[None]], *, is_binary: bool
    ) -> None:
        self._rooms = rooms
        self._is_binary = is_binary
        self._session = Session(rooms.clock(), is_binary=is_binary, limits=rooms.limits)
        self._queue: SendQueue[Packet] = SendQueue(rooms.queue_limits)
        self._outlet = outlet_for(scope, send, self._next, self._on_shutdown)
        self._subscriptions: dict[str, Subscription] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = float("inf")
        self._counted = (0, 0)
        self._end = asyncio.timeout(None)
        self._is_running = False

    async def run(self, receive: Callable[[], Awaitable[Message]]) -> None:
        """Serve until the client leaves or is closed; nothing of the socket is left afterwards."""
        self._arm()
        try:
            async with self._end:
                self._is_running = True
                while (event := await receive())["type"] != "websocket.disconnect":
                    text = event.get("text")
                    frame = text if text is not None else event.get("bytes") or b""
                    for effect in self._session.receive(frame, self._rooms.clock(), wall_ms()):
                        await self._perform(effect)
                    self._arm()
        except TimeoutError:
            pass  # closed by us, and the peer did not even answer that
        finally:
            self._is_running = False
            self._session.close(CloseCode.SHUTDOWN, "")  # whatever still comes has nowhere to go
            self._leave_all()
            if self._timer is not None:
                self._timer.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._outlet.stop()
            self._count_drops()

    def push(self, publications: Outgoing, subscription: Subscription) -> None:
        """Deliver publications of a subscribed channel, now or when there is room."""
        if not (self._queue.is_empty and self._outlet.offer(publications, self._is_binary)):
            self._put(publications, subscription.key.channel)
        if publications.has_call:
            if subscription.resource.kind == "call":
                self._recheck_soon(subscription)
            elif subscription.adds_calls:
                self._add_calls(publications.entries)

    def _put(self, publications: Outgoing, ch: str) -> None:
        """Queue publications one by one; those that there is room for leave at once."""
        for entry, packet in zip(publications.entries, publications.packets(self._is_binary), strict=True):
            if not self._queue.push(packet, len(packet.body), (ch, entry.kind, entry.key), is_interim=entry.is_interim):
                self.cut(CloseCode.SLOW, "too slow")
                return
            self._outlet.wake()

    def cut(self, code: CloseCode, reason: str) -> None:
        """Close from our side."""
        self._perform_now(self._session.close(code, reason))

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case Redeem(ticket):
                await self._redeem(ticket)
            case Subscribe():
                await self._subscribe(effect)
            case Command(ch, message):
                try:
                    await self._command(ch, message)
                except CuelineError as error:
                    self._perform_now(self._session.refuse(error, ch))
                except Exception:
                    logger.exception("a feed command failed")
                    self._perform_now(self._session.refuse(InternalError("internal error"), ch))
            case Send() | Close() | Unsubscribe():
                self._perform_now([effect])

    def _perform_now(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    packet = message_packet(message, self._is_binary)
                    if self._queue.push_control(packet, len(packet.body)):
                        self._outlet.wake()
                    else:
                        self.cut(CloseCode.SLOW, "too slow")
                case Unsubscribe(ch):
                    self._leave(ch)
                case Close(code, reason):
                    self._close(code, reason)
                case _:
                    raise AssertionError(f"{type(effect).__name__} needs waiting for")

    def _close(self, code: CloseCode, reason: str) -> None:
        self._rooms.metrics.feed_closed.labels(str(int(code))).inc()
        self._leave_all()
        self._queue.clear()
        self._outlet.close(code, reason)
        if self._is_running:
            self._end.reschedule(asyncio.get_running_loop().time() + LINGER_S)

    async def _redeem(self, ticket: str) -> None:
        now_s = self._rooms.clock()
        try:
            redeemed = self._rooms.tickets.redeem(ticket, now_s)
            identity = await redeemed if isinstance(redeemed, Awaitable) else redeemed
        except Unavailable:
            self.cut(CloseCode.INSUFFICIENT_STATE, "the ticket cannot be checked at present")
        except CuelineError as error:
            self._perform_now(self._session.not_authenticated(error, now_s))
        else:
            self._perform_now(self._session.authenticated(identity, now_s, wall_ms()))
            for subscription in self._subscriptions.values():  # renewed, perhaps with other rights
                self._recheck_soon(subscription)

    async def _subscribe(self, effect: Subscribe) -> None:
        identity = self._session.identity
        assert identity is not None
        key = ChannelKey(identity.tenant_id, effect.ch)
        after = None
        if effect.epoch is not None and effect.offset is not None:
            after = Position(effect.epoch, effect.offset)
        subscription: Subscription | None = None
        try:
            resource = await resource_of(self._rooms.directory, key)
            is_allowed = may(identity, "subscribe", resource)
            if self._rooms.commands.on_follow is not None:
                self._rooms.commands.on_follow(identity, key, is_allowed)
            require(identity, "subscribe", resource)
            subscription = Subscription(self, key, resource, adds_calls=effect.adds_calls)
            # Follow first, then read: what is published in between arrives early and is told apart by its offset.
            self._rooms.hub.join(key, subscription)
            recovery = await self._rooms.log.recover(key, after)
        except Exception as error:
            if subscription is not None:
                self._rooms.hub.leave(key, subscription)
            if not isinstance(error, CuelineError):
                logger.exception("a feed subscription failed")
                error = InternalError("internal error")
            self._perform_now(self._session.not_subscribed(effect.ch, error, self._rooms.clock()))
            return
        except BaseException:
            if subscription is not None:
                self._rooms.hub.leave(key, subscription)
            raise
        if self._session.is_closed or not self._session.subscribed(effect.ch):
            self._rooms.hub.leave(key, subscription)
            return
        if after is not None:
            result = "complete" if recovery.recovered else "snapshot"
            self._rooms.metrics.feed_recoveries.labels(result).inc()
        self._subscriptions[effect.ch] = subscription
        if resource.kind == "agent" and identity.agent_id is not None and identity.agent_id == resource.agent_id:
            team = min(identity.teams, default="")
            subscription.sign_out = self._rooms.presence.enter(identity.tenant_id, identity.agent_id, team)
        self._queue.push_replay(effect.ch, answer_packets(effect.ch, after, recovery, self._is_binary))
        subscription.start(recovery.position)
        self._outlet.wake()
        if subscription.adds_calls:
            self._add_calls(States((*recovery.snapshot, *recovery.tail)).entries())

    def _add_calls(self, entries: Iterable[Entry]) -> None:
        """Subscribe to the calls that an agent's channel names; one that left is taken away by its own channel."""
        for entry in entries:
            if entry.kind == "call" and not entry.is_over:
                self._own(self._add(call_channel(entry.key)), "feed add")

    async def _add(self, ch: str) -> None:
        for effect in self._session.add(ch):
            await self._perform(effect)

    async def _command(self, ch: str, message: Receipt | Ask | Say) -> None:
        identity = self._session.identity
        subscription = self._subscriptions.get(ch)
        if identity is None or subscription is None:
            return
        action, handler = self._handler(message)
        require(identity, action, subscription.resource)
        if handler is None:
            raise NotFound(f"this server has no use for `{action}`", field="type")
        await handler(identity, subscription.key)

    def _handler(
        self, message: Receipt | Ask | Say
    ) -> tuple[Action, Callable[[Identity, ChannelKey], Awaitable[None]] | None]:
        commands = self._rooms.commands
        match message:
            case Receipt():
                on_receipt = commands.on_receipt
                return "receipt", on_receipt and (lambda who, key: on_receipt(who, key, message))
            case Ask():
                on_ask = commands.on_ask
                return "ask", on_ask and (lambda who, key: on_ask(who, key, message))
            case Say():
                on_say = commands.on_say
                return "say", on_say and (lambda who, key: on_say(who, key, message))

    def _recheck_soon(self, subscription: Subscription) -> None:
        """Call or identity may have changed hands or rights: look again whether this one may still listen."""
        self._own(self._recheck(subscription), "feed recheck")

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _recheck(self, subscription: Subscription) -> None:
        ch = subscription.key.channel
        try:
            resource = await resource_of(self._rooms.directory, subscription.key)
        except Exception:
            logger.exception("a feed subscription could not be checked and is ended")
            self._perform_now(self._session.revoke(ch, "its rights could not be checked"))
            return
        identity = self._session.identity
        if identity is None or self._subscriptions.get(ch) is not subscription:
            return
        subscription.resource = resource
        if not may(identity, "subscribe", resource):
            self._perform_now(self._session.revoke(ch, "the call is not yours any more"))

    def _next(self) -> Packet | None:
        packet = self._queue.pop()
        if packet is not None and packet.appended_s is not None:
            self._rooms.metrics.feed_deliver.observe(self._rooms.clock() - packet.appended_s)
        return packet

    def _leave(self, ch: str) -> None:
        subscription = self._subscriptions.pop(ch, None)
        if subscription is not None:
            subscription.sign_out()
            self._rooms.hub.leave(subscription.key, subscription)
            self._queue.drop_channel(ch)

    def _leave_all(self) -> None:
        for ch in list(self._subscriptions):
            self._leave(ch)

    def _arm(self) -> None:
        """Have the session called at its next deadline; a timer that is early is left to find out itself."""
        deadline_s = self._session.deadline_s
        if deadline_s >= self._timer_at_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, deadline_s - self._rooms.clock())
        self._timer_at_s = deadline_s
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at_s = float("inf")
        self._perform_now(self._session.on_time(self._rooms.clock(), wall_ms()))
        self._count_drops()
        self._arm()

    def _on_shutdown(self) -> None:
        self.cut(CloseCode.SHUTDOWN, "shutting down")

    def _count_drops(self) -> None:
        coalesced, dropped = self._counted
        self._counted = (self._queue.num_coalesced, self._queue.num_dropped)
        self._rooms.metrics.feed_dropped.labels("superseded").inc(self._counted[0] - coalesced)
        self._rooms.metrics.feed_dropped.labels("interim").inc(self._counted[1] - dropped)


def _nothing() -> None:
    """What signs out who did not sign in."""
