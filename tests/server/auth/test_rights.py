from itertools import product
from typing import get_args

import pytest

from server.auth.identity import ROLES, Identity
from server.auth.rights import RIGHTS, Action, Resource, ResourceKind, may, require
from server.wire.errors import Forbidden
from server.wire.ids import AgentId, TenantId

T = TenantId("t")
A1, A2 = AgentId("a1"), AgentId("a2")
PEOPLE = {
    "agent": Identity(T, A1, frozenset({"agent"})),
    "supervisor": Identity(T, None, frozenset({"supervisor"}), teams=frozenset({"north"})),
    "telephony": Identity(T, None, frozenset({"telephony"})),
    "admin": Identity(T, None, frozenset({"admin"})),
    "operator": Identity(T, None, frozenset({"operator"})),
    "nobody": Identity(T, A1, frozenset()),
    "anonymous": Identity(T, AgentId("agent"), frozenset({"agent"}), is_anonymous=True),
}
OWN = Resource("call", T, A1, "north")
OTHERS = Resource("call", T, A2, "north")
FAR = Resource("call", T, A2, "south")
NOBODYS = Resource("call", T)
TENANT = Resource("tenant", T)
SERVER = Resource("server", T)

ALLOWED: dict[tuple[str, Action], set[Resource]] = {
    ("agent", "subscribe"): {OWN},
    ("agent", "ingest"): {OWN},
    ("agent", "read"): {OWN},
    ("agent", "ask"): {OWN, TENANT},
    ("agent", "say"): {OWN},
    ("agent", "receipt"): {OWN},
    ("supervisor", "subscribe"): {OWN, OTHERS},
    ("supervisor", "read"): {OWN, OTHERS},
    ("supervisor", "ask"): {OWN, OTHERS, TENANT},
    ("supervisor", "receipt"): {OWN, OTHERS},
    ("telephony", "ingest"): {OWN, OTHERS, FAR, NOBODYS},
    ("admin", "subscribe"): {OWN, OTHERS, FAR, NOBODYS},
    ("admin", "read"): {OWN, OTHERS, FAR, NOBODYS, TENANT},
    ("admin", "erase"): {OWN, OTHERS, FAR, NOBODYS},
    ("admin", "ask"): {TENANT},
    ("admin", "list"): {TENANT},
    ("admin", "operate"): {TENANT},
    ("operator", "read"): {SERVER},
    ("operator", "operate"): {SERVER},
}


@pytest.mark.parametrize("action", get_args(Action))
@pytest.mark.parametrize("person", [name for name in PEOPLE if name != "anonymous"])
def test_everyone_may_what_the_table_says_and_nothing_else(person: str, action: Action) -> None:
    resources = [OWN, OTHERS, FAR, NOBODYS, TENANT, SERVER]
    allowed = {resource for resource in resources if may(PEOPLE[person], action, resource)}
    assert allowed == ALLOWED.get((person, action), set())


def test_agent_channels_are_private() -> None:
    mine, other = Resource("agent", T, A1, "north"), Resource("agent", T, A2, "south")
    assert may(PEOPLE["agent"], "subscribe", mine)
    assert not may(PEOPLE["agent"], "subscribe", other)
    assert may(PEOPLE["supervisor"], "subscribe", mine)
    assert not may(PEOPLE["supervisor"], "subscribe", other)
    assert may(PEOPLE["anonymous"], "subscribe", other)


@pytest.mark.parametrize("person", PEOPLE)
def test_another_tenant_is_always_denied(person: str) -> None:
    for action, kind in product(get_args(Action), get_args(ResourceKind)):
        assert not may(PEOPLE[person], action, Resource(kind, TenantId("u"), A1, "north"))


def test_a_person_without_agent_id_owns_no_unowned_call() -> None:
    assert not may(Identity(T, None, frozenset(ROLES) - {"admin"}), "subscribe", NOBODYS)


def test_a_supervisor_of_an_unnamed_team_sees_nothing() -> None:
    assert not may(Identity(T, None, frozenset({"supervisor"}), frozenset({""})), "subscribe", NOBODYS)


def test_what_no_row_names_is_denied() -> None:
    for action, kind in product(get_args(Action), get_args(ResourceKind)):
        if (action, kind) not in RIGHTS:
            assert not any(may(person, action, Resource(kind, T, A1, "north")) for person in PEOPLE.values())


def test_require_refuses() -> None:
    require(PEOPLE["agent"], "subscribe", OWN)
    with pytest.raises(Forbidden):
        require(PEOPLE["agent"], "subscribe", OTHERS)
