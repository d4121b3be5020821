import pytest

from server.auth.identity import Identity
from server.auth.tickets import TICKET_TTL_S, Tickets
from server.wire.errors import Overloaded, Unauthorised
from server.wire.ids import AgentId, TenantId

AGENT = Identity(TenantId("t"), AgentId("a1"), frozenset({"agent"}))


def test_a_ticket_is_good_once() -> None:
    tickets = Tickets()
    ticket = tickets.issue(AGENT, 0.0)
    assert tickets.redeem(ticket, TICKET_TTL_S - 0.1) is AGENT
    with pytest.raises(Unauthorised):
        tickets.redeem(ticket, TICKET_TTL_S - 0.1)


def test_a_ticket_ends_after_a_minute() -> None:
    tickets = Tickets()
    ticket = tickets.issue(AGENT, 0.0)
    with pytest.raises(Unauthorised):
        tickets.redeem(ticket, TICKET_TTL_S)
    assert len(tickets) == 0


def test_a_ticket_does_not_outlive_its_identity() -> None:
    tickets = Tickets()
    ticket = tickets.issue(Identity(AGENT.tenant_id, AGENT.agent_id, AGENT.roles, expires_s=10.0), 0.0)
    with pytest.raises(Unauthorised):
        tickets.redeem(ticket, 10.0)


@pytest.mark.parametrize("ticket", ["", "x", "\ud800", "x" * 10_000])
def test_an_unknown_ticket_is_refused(ticket: str) -> None:
    with pytest.raises(Unauthorised):
        Tickets().redeem(ticket, 0.0)


def test_tickets_are_bounded_and_expired_ones_make_room() -> None:
    tickets = Tickets(max_tickets=2)
    issued = {tickets.issue(AGENT, 0.0), tickets.issue(AGENT, 1.0)}
    assert len(issued) == 2
    with pytest.raises(Overloaded):
        tickets.issue(AGENT, 2.0)
    tickets.issue(AGENT, TICKET_TTL_S)
    assert len(tickets) == 2
