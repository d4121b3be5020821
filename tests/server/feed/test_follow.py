"""An agent signs in once; the calls come and go by themselves, in every tab."""

from __future__ import annotations

import time
from pathlib import Path

from server.auth.identity import Identity
from server.feed.directory import CallDirectory
from server.log.contract import ChannelKey, Event
from server.log.embedded import EmbeddedLog
from server.wire.clock import Stamps
from server.wire.ids import AgentId, TenantId
from server.wire.publication import CallState
from tests.server.feed.harness import TENANT, FeedServer, RawClient, feed_server, raw_client, transcript

AGENTS = {name: Identity(TENANT, AgentId(name), frozenset({"agent"})) for name in ("anna", "bob")}


class Owners:
    """Whose each call is, as a test says."""

    def __init__(self) -> None:
        self.agents: dict[str, AgentId] = {}

    def agent_of(self, tenant_id: TenantId, conversation_id: str) -> tuple[bool, AgentId | None]:
        return conversation_id in self.agents, self.agents.get(conversation_id)


class Stored:
    async def agent_of(self, tenant_id: TenantId, conversation_id: str) -> tuple[bool, AgentId | None]:
        return False, None


class Desk:
    """Moves calls as `LiveCall` does: the call's channel first, then those of both agents."""

    def __init__(self, log: EmbeddedLog, owners: Owners) -> None:
        self._log = log
        self._owners = owners

    async def give(self, conversation_id: str, agent: str) -> None:
        before = self._owners.agents.get(conversation_id)
        self._owners.agents[conversation_id] = AgentId(agent)
        await self._say(f"call:{conversation_id}", conversation_id, "started", agent)
        if before is not None:
            await self._say(f"agent:{before}", conversation_id, "ended", before)
        await self._say(f"agent:{agent}", conversation_id, "started", agent)

    async def speak(self, conversation_id: str, number: int) -> None:
        await self._log.append(ChannelKey(TENANT, f"call:{conversation_id}"), [Event(transcript(number), Stamps())])

    async def _say(self, channel: str, conversation_id: str, state: str, agent: str) -> None:
        payload = CallState(conversation_id=conversation_id, state=state, agent_id=agent)  # type: ignore[arg-type]
        await self._log.append(ChannelKey(TENANT, channel), [Event(payload, Stamps())])


async def sign_in(client: RawClient, server: FeedServer, agent: str) -> None:
    ticket = server.tickets.issue(AGENTS[agent], time.monotonic())
    await client.send({"type": "auth", "ticket": ticket})
    assert (await client.receive())["type"] == "authenticated"
    await client.send({"type": "sub", "ch": f"agent:{agent}", "follow": True})


async def until_subscribed(client: RawClient, ch: str) -> dict:
    """Everything that comes up to that channel's answer."""
    while True:
        message = await client.receive()
        if message.get("type") == "subscribed" and message["ch"] == ch:
            return message
        assert message.get("type") != "error"


async def test_calls_are_added_followed_through_a_transfer_and_taken_away(tmp_path: Path) -> None:
    log, owners = EmbeddedLog(tmp_path), Owners()
    await log.start()
    desk = Desk(log, owners)
    await desk.give("early", "anna")
    async with (
        feed_server(log=log, directory=CallDirectory(owners, Stored())) as server,
        raw_client(server) as anna,
        raw_client(server) as annas_other_tab,
        raw_client(server) as bob,
    ):
        for client, agent in ((anna, "anna"), (annas_other_tab, "anna"), (bob, "bob")):
            await sign_in(client, server, agent)
            await until_subscribed(client, f"agent:{agent}")
        for tab in (anna, annas_other_tab):
            await until_subscribed(tab, "call:early")
        await desk.give("late", "anna")
        for tab in (anna, annas_other_tab):
            await until_subscribed(tab, "call:late")
        await desk.speak("late", 1)
        for tab in (anna, annas_other_tab):
            while (await tab.receive()).get("kind") != "transcript":
                pass
        await desk.give("late", "bob")
        answer = await until_subscribed(bob, "call:late")
        assert [item["kind"] for item in answer["snapshot"]] == ["transcript", "call"]
        for tab in (anna, annas_other_tab):
            while (message := await tab.receive()).get("type") != "unsubscribed":
                pass
            assert message["ch"] == "call:late"
        await desk.speak("late", 2)
        await desk.speak("early", 3)
        while (message := await anna.receive()).get("kind") != "transcript":
            pass
        assert message["ch"] == "call:early", "nothing of the other agent's call"
    await log.stop()


async def test_only_an_agents_channel_leads_to_calls() -> None:
    async with feed_server() as server, raw_client(server) as client:
        await client.auth(server)
        await client.send({"type": "sub", "ch": "call:1", "follow": True})
        message = await client.receive()
        assert (message["type"], message["field"]) == ("error", "follow")
