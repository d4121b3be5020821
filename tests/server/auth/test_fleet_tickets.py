"""Tickets that another process redeems, once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.auth.fleet_tickets import SPENT_FOR_S, FleetRedeemer, FleetTickets
from server.auth.identity import Identity
from server.wire.errors import TooLarge, Unauthorised
from server.wire.ids import AgentId, TenantId

ANNA = Identity(TenantId("a"), AgentId("anna"), frozenset({"agent", "supervisor"}), frozenset({"sales"}), 500.0)


class Wall:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def processes(wall: Wall) -> list[FleetTickets]:
    """Two of one fleet, whose monotonic clocks differ."""
    found = [FleetTickets(wall_s=wall) for _ in range(2)]
    found[1].secrets = [*found[0].secrets]
    return found


def test_another_process_knows_who_it_is(processes: list[FleetTickets]) -> None:
    ticket = processes[0].issue(ANNA, now_s=100.0)
    assert processes[1].redeem(ticket, now_s=7000.0) == replace(ANNA, expires_s=7400.0)


def test_a_ticket_that_was_changed_expired_or_sealed_elsewhere_is_worth_nothing(
    processes: list[FleetTickets], wall: Wall
) -> None:
    ticket = processes[0].issue(ANNA, now_s=0.0)
    stranger = FleetTickets(wall_s=wall)
    for bad in ("", "x", "é", ticket[:-4], ticket[:30] + ("A" if ticket[30] != "A" else "B") + ticket[31:]):
        with pytest.raises(Unauthorised):
            processes[1].redeem(bad, 0.0)
    with pytest.raises(Unauthorised):
        stranger.redeem(ticket, 0.0)
    wall.now_s += 61
    with pytest.raises(Unauthorised):
        processes[1].redeem(ticket, 61.0)


def test_an_identity_that_ended_meanwhile_is_refused(processes: list[FleetTickets], wall: Wall) -> None:
    ticket = processes[0].issue(replace(ANNA, expires_s=10.0), now_s=0.0)
    wall.now_s += 11
    with pytest.raises(Unauthorised):
        processes[1].redeem(ticket, 0.0)


def test_the_former_secret_stays_good(processes: list[FleetTickets]) -> None:
    ticket = processes[0].issue(ANNA, 0.0)
    processes[1].secrets = [b"x" * 32, *processes[1].secrets]
    assert processes[1].redeem(ticket, 0.0).agent_id == "anna"


def test_what_does_not_fit_is_refused_when_it_is_issued(processes: list[FleetTickets]) -> None:
    with pytest.raises(TooLarge):
        processes[0].issue(replace(ANNA, teams=frozenset(f"team-{number}" for number in range(100))), 0.0)


def test_a_used_ticket_stays_used_though_a_clock_is_set_back(processes: list[FleetTickets], wall: Wall) -> None:
    ticket = processes[0].issue(ANNA, now_s=0.0)
    assert processes[1].redeem(ticket, 0.0).agent_id == "anna"
    for back_s in (31.0, 90.0, 500.0):  # it looks good again, and is remembered
        with pytest.raises(Unauthorised):
            processes[1].redeem(ticket, back_s)
    wall.now_s -= 7200  # nobody remembers it
    for process in processes:
        with pytest.raises(Unauthorised):
            process.redeem(ticket, SPENT_FOR_S + 1)


def test_clocks_may_be_a_little_apart(processes: list[FleetTickets], wall: Wall) -> None:
    for ahead_s in (-20.0, 20.0):
        ticket = processes[0].issue(ANNA, 0.0)
        wall.now_s -= ahead_s
        assert processes[1].redeem(ticket, 0.0).agent_id == "anna"
        wall.now_s += ahead_s


async def test_a_ticket_is_spent_in_the_whole_fleet(processes: list[FleetTickets]) -> None:
    spent: set[str] = set()

    async def spend(digest: str) -> bool:
        is_new = digest not in spent
        spent.add(digest)
        return is_new

    redeemers = [FleetRedeemer(tickets, spend) for tickets in processes]
    ticket = processes[0].issue(ANNA, 0.0)
    assert (await redeemers[1].redeem(ticket, 0.0)).agent_id == "anna"
    for redeemer in redeemers:
        with pytest.raises(Unauthorised):
            await redeemer.redeem(ticket, 0.0)
