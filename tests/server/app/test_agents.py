"""Who sees whom signed in."""

from __future__ import annotations

from typing import Any

import pytest

from server.app.agents import agent_handlers
from server.auth.identity import Identity
from server.log.presence import LocalPresence
from server.wire.ids import AgentId, TenantId

TENANT = TenantId("t")
ANNA = {"agent_id": "anna", "team": "north", "sockets": 2}
BOB = {"agent_id": "bob", "team": "south", "sockets": 1}


class Asked:
    def __init__(self, identity: Identity) -> None:
        self.scope = {"state": {"identity": identity}}


@pytest.fixture
def presence() -> LocalPresence:
    presence = LocalPresence()
    for agent, team in (("anna", "north"), ("anna", "north"), ("bob", "south")):
        presence.enter(TENANT, AgentId(agent), team)
    presence.enter(TenantId("u"), AgentId("anna"), "north")
    return presence


@pytest.mark.parametrize(
    ("identity", "seen"),
    [
        (Identity(TENANT, AgentId("anna"), frozenset({"agent"})), [ANNA]),
        (Identity(TENANT, AgentId("sue"), frozenset({"supervisor"}), frozenset({"south"})), [BOB]),
        (Identity(TENANT, AgentId("sue"), frozenset({"supervisor"}), frozenset({"west"})), []),
        (Identity(TENANT, None, frozenset({"admin"})), [ANNA, BOB]),
        (Identity(TENANT, None, frozenset({"telephony"})), []),
        (Identity(TenantId("v"), None, frozenset({"admin"})), []),
    ],
    ids=["agent", "supervisor", "other team", "admin", "telephony", "other tenant"],
)
async def test_each_sees_those_they_may(
    presence: LocalPresence, identity: Identity, seen: list[dict[str, Any]]
) -> None:
    (handler,) = agent_handlers(presence)
    assert await handler.fn(Asked(identity)) == {"agents": seen}
