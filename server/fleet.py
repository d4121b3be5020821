"""This process among the others that share its Redis: which calls it owns, where it is reached, how it leaves.

    start   address for relayed sources · secret of the tickets · leases renewed, orphans adopted
    drain   calls left to the others · sources sent away with a come-back code · feeds told to come back

Alone, on the embedded log, there are no others: calls end with the process, and those of one that was killed in its
next life (`server.live.leftover`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket as sockets
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from server.auth.fleet_tickets import SPENT_FOR_S, FleetRedeemer, FleetTickets
from server.auth.fleet_tls import FleetTls
from server.auth.passes import FleetPasses
from server.auth.tickets import Redeemer, Tickets
from server.config.settings import Settings
from server.feed.directory import StoredOwners
from server.ingest.relay import Relay
from server.live import LiveCalls
from server.log.contract import ChannelKey, EventLog
from server.log.leases import Leases, SoleOwner
from server.log.presence import LocalPresence
from server.log.redis_seal import Seal
from server.wire.errors import ConfigError, Conflict, CuelineError, Gone, Unavailable
from server.wire.ids import AgentId, ConversationId, TenantId, call_channel
from server.wire.publication import CallState

if TYPE_CHECKING:
    from server.log.redis import RedisLog
    from server.log.redis_leases import RedisLeases

log = logging.getLogger(__name__)

SECRET = "cueline:tickets/sealed-secret"
SECRET_OWNER = TenantId("_fleet")
"""Whose key seals the secret that tickets and passes are made with: who reads Redis must not be able to make them."""
FORGET = "cueline:forget"
"""Topic under which processes ask each other to empty their caches."""
SECRET_EVERY_S = 2.0
"""How soon a process learns of the secret of a Redis that began anew."""


ReceiptEvent = Literal["shown", "used", "dismissed", "wrong"]


class _Message(msgspec.Struct, frozen=True, array_like=True):
    """What one process sends another: for which call, and a `_Told` that the tenant's key sealed."""

    tenant_id: str
    conversation_id: str
    told: bytes

    @property
    def key(self) -> ChannelKey:
        """The call's channel, which the seal is bound to."""
        return _call_key(TenantId(self.tenant_id), self.conversation_id)


class Door(Protocol):
    """Where sources of calls come in."""

    def move(self, tenant_id: TenantId, conversation_id: ConversationId) -> None:
        """Another process has this call: its sources go there."""


class _Told(msgspec.Struct, frozen=True, array_like=True):
    """What one process has for a call of another: a receipt, or, without its event, a question."""

    action_id: str = ""
    event: ReceiptEvent | None = None
    text: str = ""


class LoggedOwners:
    """Knows whose the calls of all processes are: the log's newest word, else the store's.

    Args:
        event_log: Shared by all.
        store: Knows calls that the log has forgotten.
    """

    def __init__(self, event_log: RedisLog, store: StoredOwners) -> None:
        self._log = event_log
        self._store = store

    async def agent_of(self, tenant_id: TenantId, conversation_id: str) -> tuple[bool, AgentId | None]:
        """Whether there is such a call, and whose it is.

        Raises:
            Unavailable: Neither answers.
        """
        key = _call_key(tenant_id, conversation_id)
        entry = await self._log.newest(key, "call", conversation_id)
        if entry is None:
            return await self._store.agent_of(tenant_id, conversation_id)
        state = msgspec.json.decode(entry.body, type=_Envelope).d
        return True, AgentId(state.agent_id) if state.agent_id is not None else None


class _Envelope(msgspec.Struct, frozen=True):
    d: CallState


class Fleet:
    """The only process. What several need is in `SharedFleet`."""

    def __init__(self) -> None:
        self.leases: Leases = SoleOwner()
        self.relay = Relay()
        self.passes: FleetPasses | None = None
        self.tickets = Tickets()
        self.redeemer: Redeemer = self.tickets
        self.listeners: list[tuple[sockets.socket, ssl.SSLContext]] = []
        self.presence = LocalPresence()
        self._calls: LiveCalls

    async def start(self, calls: LiveCalls, doors: Sequence[Door]) -> None:
        """Take part."""
        self._calls = calls

    async def is_live(self, tenant_id: TenantId, conversation_id: str) -> bool:
        """Whether a call is live, in whatever process. Raises `Unavailable` when that cannot be known now."""
        return self._calls.agent_of(tenant_id, conversation_id)[0]

    def owners(self, store: StoredOwners) -> StoredOwners:
        """Who knows whose the calls are that are not live in this process."""
        return store

    def receipt(self, tenant_id: TenantId, conversation_id: str, action_id: str, event: ReceiptEvent) -> None:
        """Tell a live call what became of a card, wherever it lives."""
        self._calls.receipt(tenant_id, conversation_id, action_id, event)

    async def ask(self, tenant_id: TenantId, conversation_id: str, text: str) -> None:
        """Let an agent ask the knowledge base in a live call, wherever it lives.

        Raises:
            Conflict: The call is over, or has not begun.
        """
        self._calls.ask(tenant_id, conversation_id, text)

    def everywhere(self, forget: Callable[[], object]) -> Callable[[], Awaitable[None]]:
        """Do something here when another process asks for it; returns what asks the others. Alone there are none."""

        async def ask() -> None:
            pass

        return ask

    async def leave_calls(self, calls: LiveCalls) -> None:
        """Before the doors close: let go of the calls that others go on with."""

    async def stop(self) -> None:
        """Take part no more."""


class SharedFleet(Fleet):
    """One of several processes.

    Args:
        event_log: What they share.
        settings: Address and times.
    """

    def __init__(self, event_log: RedisLog, settings: Settings) -> None:
        super().__init__()
        from server.log.redis_leases import RedisLeases  # its client is an extra
        from server.log.redis_presence import RedisPresence

        self._name = os.urandom(8).hex()
        listener = _private_listener(settings.fleet.host)
        host, port = listener.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._log = event_log
        self._leases: RedisLeases = RedisLeases(
            event_log,
            self._name,
            address,
            lease_s=settings.log.lease_ms / 1000,
            retention_s=settings.log.retention_hours * 3600.0,
        )
        self.leases = self._leases
        self.presence = self._presence = RedisPresence(event_log.link, self._name)
        self._seal = Seal(event_log.keys, "told")
        self._sealed = FleetTickets()
        self.tickets = self._sealed
        self.redeemer = FleetRedeemer(self._sealed, self._spend)
        self.passes = FleetPasses(self._sealed, self._spend)
        self._tls = FleetTls(self._sealed.secrets)
        self.listeners = [(listener, self._tls.server)]
        self.relay = Relay(self._tls.client, self.passes)
        self._task: asyncio.Task[None] | None = None
        self._telling: set[asyncio.Task[None]] = set()

    async def start(self, calls: LiveCalls, doors: Sequence[Door]) -> None:
        """Renew leases, adopt orphans, share the tickets' secret, hear what others have for calls of this process."""
        self._calls = calls
        self._log.listen(_topic(self._name), self._on_message)

        def move(tenant_id: TenantId, conversation_id: ConversationId) -> None:
            for door in doors:
                door.move(tenant_id, conversation_id)

        async def adopt(channel: ChannelKey) -> None:
            if await calls.adopt(channel):
                # Whoever is being relayed to the owner that is gone need not find that out by itself.
                move(channel.tenant_id, ConversationId(channel.channel.partition(":")[2]))

        calls.on_lost = move
        self._leases.on_lost = calls.lose_call
        self._leases.on_orphan = adopt
        await self._share_secret()
        self._leases.start()
        self._presence.start()
        self._task = asyncio.create_task(self._keep_secret(), name="fleet-secret")

    def everywhere(self, forget: Callable[[], object]) -> Callable[[], Awaitable[None]]:
        """See `Fleet`. What `everywhere` returns raises `Unavailable` while Redis does not answer."""

        def asked(_: bytes) -> None:
            forget()

        async def ask() -> None:
            await self._log.link.run("PUBLISH", FORGET, "")

        self._log.listen(FORGET, asked)
        return ask

    async def leave_calls(self, calls: LiveCalls) -> None:
        """Adopt no more and leave every call to the others, whole: its words are published, nothing ends."""
        self._leases.on_orphan = None
        await calls.hand_over()

    async def stop(self) -> None:
        """Renew no more."""
        await self._leases.stop()
        await self._presence.stop()
        await asyncio.gather(*self._telling, return_exceptions=True)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for listener, _ in self.listeners:
            listener.close()

    async def is_live(self, tenant_id: TenantId, conversation_id: str) -> bool:
        """See `Fleet`."""
        if self._calls.agent_of(tenant_id, conversation_id)[0]:
            return True
        key = _call_key(tenant_id, conversation_id)
        return await self._leases.owner(key) is not None

    def owners(self, store: StoredOwners) -> StoredOwners:
        """See `Fleet`: the log knows of a transfer in another process before the store does."""
        return LoggedOwners(self._log, store)

    def receipt(self, tenant_id: TenantId, conversation_id: str, action_id: str, event: ReceiptEvent) -> None:
        """See `Fleet`."""
        if self._calls.agent_of(tenant_id, conversation_id)[0]:
            self._calls.receipt(tenant_id, conversation_id, action_id, event)
            return
        self._spawn(self._pass_on(_call_key(tenant_id, conversation_id), _Told(action_id, event)))

    async def ask(self, tenant_id: TenantId, conversation_id: str, text: str) -> None:
        """See `Fleet`."""
        if self._calls.agent_of(tenant_id, conversation_id)[0]:
            self._calls.ask(tenant_id, conversation_id, text)
        elif not await self._tell(_call_key(tenant_id, conversation_id), _Told(text=text)):
            raise Conflict("the call is not live", field="ch")

    async def _pass_on(self, key: ChannelKey, told: _Told) -> None:
        try:
            await self._tell(key, told)  # a call that is over needs no receipt
        except CuelineError as error:
            log.warning("a receipt did not reach its call; it is kept all the same", extra={"reason": error.code})

    async def _tell(self, key: ChannelKey, told: _Told) -> bool:
        """Tell the process that owns the call; False if nobody does."""
        owner = await self._leases.owner(key)
        if owner is None:
            return False
        conversation_id = key.channel.partition(":")[2]
        sealed = self._seal.close(key, msgspec.msgpack.encode(told))
        message = msgspec.msgpack.encode(_Message(key.tenant_id, conversation_id, sealed))
        return bool(await self._log.link.run("PUBLISH", _topic(owner), message))

    def _on_message(self, data: bytes) -> None:
        try:
            message = msgspec.msgpack.decode(data, type=_Message)
        except msgspec.DecodeError:
            log.warning("another process said what this version does not know")
            return
        told = self._seal.open_now(message.key, message.told)
        if told is None:
            self._spawn(self._open(message))
        else:
            self._take(message, told)

    async def _open(self, message: _Message) -> None:
        """The first word from a process is sealed by a data key that this one has to ask for."""
        try:
            self._take(message, await self._seal.open(message.key, message.told))
        except CuelineError as error:
            log.warning("what another process has for a call cannot be opened", extra={"reason": error.code})

    def _take(self, message: _Message, data: bytes) -> None:
        told, tenant_id = msgspec.msgpack.decode(data, type=_Told), message.key.tenant_id
        if told.event is not None:
            self._calls.receipt(tenant_id, message.conversation_id, told.action_id, told.event)
            return
        try:
            self._calls.ask(tenant_id, message.conversation_id, told.text)
        except Conflict:
            log.info("a question came after its call")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="fleet-telling")
        self._telling.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[None]) -> None:
        self._telling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("telling another process died", exc_info=error)

    async def _spend(self, digest: str) -> bool:
        ttl_ms = int(SPENT_FOR_S * 1000)
        answer = await self._log.link.run("SET", f"cueline:tickets/{digest}", "1", "NX", "PX", ttl_ms)
        return answer is not None

    async def _share_secret(self) -> None:
        """The first process of a Redis gives the secret, the others take it; the former one stays good.

        Raises:
            ConfigError: What Redis has was not sealed by this fleet's key, or the others have another one.
            Gone: The fleet's key was destroyed.
            Unavailable: Redis or the key service does not answer.
        """
        keys, mine = self._log.keys, self._sealed.secrets[0]
        if keys is not None:
            await keys.prepare(SECRET_OWNER)
        given = mine if keys is None else keys.seal(SECRET_OWNER, mine, SECRET.encode())
        await self._log.link.run("SET", SECRET, given, "NX")
        secret = await self._log.link.run("GET", SECRET) or given
        if keys is not None:
            try:
                secret = await keys.open(secret, SECRET.encode())
            except ValueError:
                raise ConfigError("another fleet, or somebody else, writes there", field="log.url") from None
            except Gone:
                raise ConfigError(
                    "the processes that share this Redis seal with other keys: share one folder, or use KMS",
                    field="keys.folder",
                ) from None
        if secret != mine:
            self._sealed.secrets = [secret, mine]
            self._tls.use(self._sealed.secrets)

    async def _keep_secret(self) -> None:
        while True:
            await asyncio.sleep(SECRET_EVERY_S)
            try:
                await self._share_secret()
            except Unavailable:
                continue
            except CuelineError as error:
                log.error("the secret of the tickets cannot be shared", extra={"reason": error.message})


def fleet_of(event_log: EventLog, settings: Settings) -> Fleet:
    """The fleet that this log makes possible."""
    if settings.log.backend == "redis":
        return SharedFleet(event_log, settings)  # type: ignore[arg-type]
    return Fleet()


def _private_listener(host: str) -> sockets.socket:
    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    try:
        return sockets.create_server((host, 0), family=family)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}: {error.strerror}", field="fleet.host") from None


def _call_key(tenant_id: TenantId, conversation_id: str) -> ChannelKey:
    return ChannelKey(tenant_id, call_channel(ConversationId(conversation_id)))


def _topic(name: str) -> str:
    return f"cueline:process/{name}"
