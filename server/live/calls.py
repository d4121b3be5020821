"""The desk: sources open, join and leave calls here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal
from weakref import WeakValueDictionary

from server.live.call import LiveCall
from server.live.history import History, read_history, read_state
from server.live.memory import unpack
from server.live.stations import Pinned, Stations
from server.log.contract import ChannelKey, Event
from server.log.leases import Elsewhere
from server.speech.contract import SpeechEvent
from server.store.contract import ConversationRecord
from server.wire.clock import Stamps, wall_ms
from server.wire.errors import Busy, Conflict, Overloaded, Unavailable
from server.wire.ids import AgentId, ConversationId, Speaker, TenantId, agent_channel, call_channel
from server.wire.ingest import UtteranceIn
from server.wire.publication import CallState

log = logging.getLogger(__name__)

CallKey = tuple[TenantId, ConversationId]


class LiveSource:
    """One source's hold on a call."""

    def __init__(self, desk: LiveCalls, call: LiveCall, roles: tuple[Speaker, ...], covered_ms: int) -> None:
        self.call = call
        self.roles = roles
        self._desk = desk
        self._covered_ms = covered_ms
        self._is_over = False

    @property
    def keyterms(self) -> tuple[str, ...]:
        """What a recogniser should know, by the call's policy."""
        return self.call.keyterms

    def resume_ms(self) -> int:
        """Audio before this is safely stored."""
        return self._covered_ms

    def now_ms(self) -> int:
        """Audio time of this moment, by the clock of the source that left last."""
        return max(self._covered_ms, self._desk.clock_ms(self))

    async def on_speech(self, speaker: Speaker, event: SpeechEvent, stamps: Stamps) -> None:
        """Hand a recogniser's event to the call."""
        await self.call.heard(speaker, event, stamps)

    async def on_utterance(self, utterance: UtteranceIn, stamps: Stamps) -> Awaitable[None]:
        """Hand an utterance to the call."""
        return await self.call.given(utterance, stamps)

    async def stored(self, covered_ms: int) -> None:
        """Return once everything said before `covered_ms` is in store or outbox."""
        await self.call.stored(self.roles, covered_ms)
        self._covered_ms = max(self._covered_ms, covered_ms)

    def assign(self, agent_id: AgentId) -> None:
        """An agent took the call."""
        self.call.assign(agent_id)

    async def stop(self, *, call_ended: bool = True, reason: str = "stopped", end_ms: float = 0.0) -> None:
        """Leave the call, after its last words are stored; the last one to leave ends it.

        Raises:
            CuelineError: They are not safe yet, or another process has the call.
        """
        if self._is_over:
            return
        self._is_over = True
        try:
            if self.call.is_left or not self.call.is_over:
                await self.call.stored()
        finally:  # words that are not safe yet must not hold the call open, nor its id for ever
            await self._desk.leave(self, call_ended=call_ended, reason=reason, end_ms=end_ms)

    def lost(self, end_ms: float = 0.0) -> None:
        """Leave without a word; the call waits a while for a source to come back."""
        if not self._is_over:
            self._is_over = True
            self._desk.lose(self, end_ms)


class LiveCalls:
    """All live calls of this process.

    Args:
        stations: Where their values go.
        max_calls: Calls at once; more are refused as overloaded.
        grace_s: How long a call without a source waits for one.

    Attributes:
        on_lost: Told of a call that another process has, so that its sources go there.
    """

    def __init__(self, stations: Stations, *, max_calls: int, grace_s: float) -> None:
        self._stations = stations
        self._max_calls = max_calls
        self._grace_s = grace_s
        self._calls: dict[CallKey, LiveCall] = {}
        self._sources: dict[CallKey, list[LiveSource]] = {}
        self._opening: WeakValueDictionary[CallKey, asyncio.Lock] = WeakValueDictionary()
        self._timers: dict[CallKey, asyncio.TimerHandle] = {}
        self._clocks: dict[CallKey, tuple[float, float]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._storing: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self.on_lost: Callable[[TenantId, ConversationId], None] = lambda tenant_id, conversation_id: None

    async def open(
        self,
        tenant_id: TenantId,
        conversation_id: ConversationId,
        *,
        agent_id: AgentId | None,
        language: str | None,
        roles: tuple[Speaker, ...],
        customer_id: str | None = None,
    ) -> LiveSource:
        """Open or join a call; see `server.ingest.contract.Desk`."""
        key = (tenant_id, conversation_id)
        async with self._opening.setdefault(key, asyncio.Lock()):
            if self._is_stopping:
                if (address := await self._stations.leases.whereabouts(_channel(key))) is not None:
                    raise Elsewhere(address)
                raise Unavailable("this server is shutting down")
            taken = {role for source in self._sources.get(key, ()) for role in source.roles}
            if taken & set(roles):
                raise Busy("this side of the conversation is being streamed by another source", field="roles")
            call = self._calls.get(key)
            covered_ms = 0
            if call is None:
                if len(self._calls) >= self._max_calls:
                    raise Overloaded(f"this server takes {self._max_calls} calls at once")
                call, covered_ms = await self._begin(key, agent_id, language, roles, customer_id)
            elif roles:  # a side that joins or comes back goes on where its last source was safe
                covered_ms = _covered_ms(await self._history(key, roles), roles)
            if (timer := self._timers.pop(key, None)) is not None:
                timer.cancel()
            source = LiveSource(self, call, roles, covered_ms)
            self._sources.setdefault(key, []).append(source)
            return source

    async def _begin(
        self,
        key: CallKey,
        agent_id: AgentId | None,
        language: str | None,
        roles: tuple[Speaker, ...],
        customer_id: str | None,
    ) -> tuple[LiveCall, int]:
        pinned = self._stations.policies.pin(key[0])
        await self._stations.leases.acquire(_channel(key))
        try:
            return await self._begin_owned(key, pinned, agent_id, language, roles, customer_id)
        except BaseException:
            if self._calls.pop(key, None) is not None:
                self._stations.metrics.live_calls.dec()
            await self._stations.leases.release(_channel(key), is_over=False)
            raise

    async def _begin_owned(
        self,
        key: CallKey,
        pinned: Pinned,
        agent_id: AgentId | None,
        language: str | None,
        roles: tuple[Speaker, ...],
        customer_id: str | None,
    ) -> tuple[LiveCall, int]:
        tenant_id, conversation_id = key
        history = await self._history(key, roles)
        if history.is_resumed and history.state is not None and history.state.agent_id is not None:
            agent_id = AgentId(history.state.agent_id)  # it may have been transferred since its source first started
        call = LiveCall(
            tenant_id,
            conversation_id,
            agent_id,
            language or (pinned.languages[0] if pinned.languages else "en"),
            pinned,
            history,
            self._stations,
            customer_id,
        )
        self._calls[key] = call
        self._stations.metrics.live_calls.inc()
        await call.start()
        log.info("call started", extra={"tenant": tenant_id, "policy": pinned.policy_name})
        return call, _covered_ms(history, roles)

    async def _history(self, key: CallKey, roles: tuple[Speaker, ...]) -> History:
        return await read_history(self._stations.log, self._stations.store, *key, roles)

    def agent_of(self, tenant_id: TenantId, conversation_id: str) -> tuple[bool, AgentId | None]:
        """Whether that call is live, and whose it is."""
        call = self._calls.get((tenant_id, ConversationId(conversation_id)))
        return call is not None, call.agent_id if call is not None else None

    def agents(self) -> dict[CallKey, AgentId | None]:
        """Whose each live call of this process is."""
        return {key: call.agent_id for key, call in self._calls.items()}

    def receipt(
        self,
        tenant_id: TenantId,
        conversation_id: str,
        action_id: str,
        event: Literal["shown", "used", "dismissed", "wrong"],
    ) -> None:
        """Tell a live call what became of a card; a call that is over has none left."""
        call = self._calls.get((tenant_id, ConversationId(conversation_id)))
        if call is not None:
            call.receipt(action_id, event)

    def ask(self, tenant_id: TenantId, conversation_id: str, text: str) -> None:
        """Let an agent ask the knowledge base in a live call; the answer comes as a card.

        Raises:
            Conflict: The call is over, or has not begun.
        """
        call = self._calls.get((tenant_id, ConversationId(conversation_id)))
        if call is None:
            raise Conflict("the call is not live", field="ch")
        call.ask(text)

    def clock_ms(self, source: LiveSource) -> int:
        """Audio time of this moment in a source's call, 0 while no source has left it."""
        end_ms, at_s = self._clocks.get(_key_of(source), (0.0, None))
        return 0 if at_s is None else round(end_ms + (asyncio.get_running_loop().time() - at_s) * 1000)

    async def leave(self, source: LiveSource, *, call_ended: bool, reason: str, end_ms: float) -> None:
        """Forget a source; end the call if it was the last one and the call is over."""
        key = self._forget(source, end_ms)
        if not self._sources.get(key):
            if call_ended:
                await self._end(key, reason)
            else:
                self._wait(key)

    def lose(self, source: LiveSource, end_ms: float) -> None:
        """Forget a source that vanished; end the call after the grace period unless another comes."""
        key = self._forget(source, end_ms)
        if not self._sources.get(key):
            self._wait(key)

    async def adopt(self, channel: ChannelKey, record: ConversationRecord | None = None) -> bool:
        """Go on with a call whose process is gone; it ends unless a source comes back within the grace period.

        Args:
            channel: The call's.
            record: What the store knows of it; the log may know nothing if the process died when the call began.

        Returns:
            Whether it goes on here; it may be here already, or over.

        Raises:
            Elsewhere: Another process was quicker.
            CuelineError: It cannot be taken over now.
        """
        key = (channel.tenant_id, ConversationId(channel.channel.partition(":")[2]))
        async with self._opening.setdefault(key, asyncio.Lock()):
            if key in self._calls or self._is_stopping:
                return False
            state = await read_state(self._stations.log, channel)
            if (state is None and record is None) or (state is not None and state.state == "ended"):
                await self._stations.leases.acquire(channel)
                try:
                    if state is not None:
                        await self._finish(channel, state)
                finally:
                    await self._stations.leases.release(channel, is_over=True)
                return False
            if state is not None:
                agent_id, language = state.agent_id, state.languages[0] if state.languages else None
            else:
                assert record is not None
                agent_id, language = record.agent_id, record.language
            await self._begin(key, AgentId(agent_id) if agent_id else None, language, (), None)
            log.info("call adopted", extra={"tenant": key[0]})
            self._wait(key)
            return True

    async def _finish(self, channel: ChannelKey, ended: CallState) -> None:
        """A call whose process died once it had ended: its agent and the store are told, for who was not."""
        memory = unpack(await self._stations.log.memory(channel))
        if ended.agent_id is not None:
            key = ChannelKey(channel.tenant_id, agent_channel(ended.agent_id))
            await self._stations.log.append(key, (Event(ended, Stamps()),))
        if memory is not None:
            self._stations.outbox.put(
                ConversationRecord(
                    tenant_id=channel.tenant_id,
                    conversation_id=ended.conversation_id,
                    revision=memory.revision,
                    agent_id=ended.agent_id,
                    state="ended",
                    policy=ended.policy,
                    language=memory.language,
                    started_ms=memory.started_ms,
                    ended_ms=wall_ms(),
                    customer_id=memory.customer_id,
                )
            )

    def lose_call(self, channel: ChannelKey) -> None:
        """Another process owns this call by now: its sources are sent there and nothing more is published here."""
        key = (channel.tenant_id, ConversationId(channel.channel.partition(":")[2]))
        call = self._calls.pop(key, None)
        self._clocks.pop(key, None)
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        if call is not None:
            self._stations.metrics.live_calls.dec()
            self._own(call.hand_over())
            self.on_lost(*key)

    async def hand_over(self) -> None:
        """Leave every call to the other processes and take no more; nothing of them ends."""
        self._is_stopping = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        calls, self._calls = self._calls, {}
        self._clocks.clear()
        await asyncio.gather(*(self._leave_to_others(key, call) for key, call in calls.items()))

    async def _leave_to_others(self, key: CallKey, call: LiveCall) -> None:
        self._stations.metrics.live_calls.dec()
        await call.hand_over()
        await self._stations.leases.release(_channel(key), is_over=False)
        log.info("call left to another process", extra={"tenant": key[0]})

    async def stop(self) -> None:
        """End every call and take no more: the process shuts down."""
        self._is_stopping = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await asyncio.gather(*(self._end(key, "shutdown") for key in list(self._calls)), *self._ending)
        if self._storing:
            log.error("calls end that the store does not know whole", extra={"calls": len(self._storing)})
        for task in self._storing:
            task.cancel()
        await asyncio.gather(*self._storing, return_exceptions=True)

    def _forget(self, source: LiveSource, end_ms: float) -> CallKey:
        key = _key_of(source)
        if end_ms > self.clock_ms(source) and key in self._calls:
            self._clocks[key] = end_ms, asyncio.get_running_loop().time()
        sources = self._sources.get(key, [])
        if source in sources:
            sources.remove(source)
        if not sources:
            self._sources.pop(key, None)
        return key

    def _wait(self, key: CallKey) -> None:
        if key in self._calls:
            self._timers[key] = asyncio.get_running_loop().call_later(self._grace_s, self._expire, key)

    def _expire(self, key: CallKey) -> None:
        self._timers.pop(key, None)
        self._own(self._end(key, "source_lost"))

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="end-lost-call")
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("ending a lost call failed", exc_info=task.exception())

    async def _end(self, key: CallKey, reason: str) -> None:
        call = self._calls.pop(key, None)
        self._clocks.pop(key, None)
        if call is not None:
            self._stations.metrics.live_calls.dec()
            await call.end(reason)
            if not call.records.is_empty:
                task = asyncio.create_task(call.records.empty(), name="store-ended-call")
                self._storing.add(task)
                task.add_done_callback(self._storing.discard)
            await self._stations.leases.release(_channel(key), is_over=True)
            log.info("call ended", extra={"tenant": key[0], "reason": reason})


def _key_of(source: LiveSource) -> CallKey:
    return source.call.tenant_id, source.call.conversation_id


def _channel(key: CallKey) -> ChannelKey:
    return ChannelKey(key[0], call_channel(key[1]))


def _covered_ms(history: History, roles: tuple[Speaker, ...]) -> int:
    return min((history.covered_ms.get(role, 0) for role in roles), default=0)
