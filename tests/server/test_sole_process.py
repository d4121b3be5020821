"""The only process is killed in a call; the next one ends the call, unless its source comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

from server.config.settings import Settings
from server.fleet import fleet_of
from server.live import LiveCalls, Stations
from server.log.contract import ChannelKey, Event
from server.log.embedded import EmbeddedLog
from server.metrics import Metrics
from server.wire.clock import Stamps
from server.wire.ids import AgentId, ConversationId, TenantId
from server.wire.publication import CallState
from tests.server.live.stations import MemoryOutbox, MemoryStore, OnePolicy, ScriptedOrchestrator
from tests.server.log.events import decoded

TENANT = TenantId("test")
AGENT = ChannelKey(TENANT, "agent:anna")


async def calls_on(log: EmbeddedLog) -> LiveCalls:
    stations = Stations(log, MemoryOutbox(), MemoryStore(), ScriptedOrchestrator(), OnePolicy(), Metrics())
    return LiveCalls(stations, max_calls=10, grace_s=0.3)


async def test_a_call_that_a_killed_process_left_open_ends_after_the_grace_period(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    await log.start()
    for conversation_id, state in (("left", "started"), ("over", "started"), ("over", "ended")):
        told = CallState(conversation_id=conversation_id, state=state, agent_id="anna")
        for key in (AGENT, ChannelKey(TENANT, f"call:{conversation_id}")):
            await log.append(key, [Event(told, Stamps())])
    ended = asyncio.Event()
    log.follow(AGENT, lambda entry: ended.set() if entry.is_over else None)
    calls = await calls_on(log)
    fleet = fleet_of(log, Settings())
    await fleet.start(calls, ())
    async with asyncio.timeout(20):
        await ended.wait()
    recovery = await log.recover(ChannelKey(TENANT, "call:left"), None)
    states = [decoded(entry)["d"] for entry in (*recovery.snapshot, *recovery.tail) if entry.kind == "call"]
    assert [(state["state"], state["reason"]) for state in states] == [("ended", "source_lost")]
    assert calls.agent_of(TENANT, ConversationId("over")) == (False, None)
    await fleet.stop()
    await calls.stop()
    await log.stop()


async def test_its_source_may_come_back_to_it(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    await log.start()
    told = CallState(conversation_id="left", state="started", agent_id="anna")
    for key in (AGENT, ChannelKey(TENANT, "call:left")):
        await log.append(key, [Event(told, Stamps())])
    calls = await calls_on(log)
    fleet = fleet_of(log, Settings())
    await fleet.start(calls, ())
    source = await calls.open(
        TENANT, ConversationId("left"), agent_id=AgentId("anna"), language="en", roles=("customer",)
    )
    await asyncio.sleep(0)
    assert calls.agent_of(TENANT, ConversationId("left"))[0]
    await source.stop(reason="stopped")
    recovery = await log.recover(ChannelKey(TENANT, "call:left"), None)
    assert decoded(recovery.snapshot[-1])["d"]["reason"] == "stopped"
    await fleet.stop()
    await calls.stop()
    await log.stop()
