"""Passes: good once, for one call, among processes of one fleet, and for nothing else."""

from __future__ import annotations

import pytest

from server.auth.fleet_tickets import FleetTickets
from server.auth.identity import Identity
from server.auth.passes import FleetPasses, Pass
from server.wire.errors import Unauthorised, Unavailable
from server.wire.ids import ConversationId, TenantId

TENANT, CALL = TenantId("a"), ConversationId("c1")


class Fleet:
    """Two processes that share secrets and a memory of what was spent."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0
        self.is_away = False
        self.spent: set[str] = set()
        self.tickets = [FleetTickets(wall_s=lambda: self.now_s) for _ in range(2)]
        self.tickets[1].secrets = [*self.tickets[0].secrets]
        self.here, self.there = (FleetPasses(one, self.spend, wall_s=lambda: self.now_s) for one in self.tickets)

    async def spend(self, digest: str) -> bool:
        if self.is_away:
            raise Unavailable("away")
        is_new = digest not in self.spent
        self.spent.add(digest)
        return is_new


async def test_a_pass_is_good_once_in_any_process() -> None:
    fleet = Fleet()
    text = fleet.here.issue(TENANT, CALL)
    assert await fleet.there.redeem(text) == Pass(TENANT, CALL)
    for process in (fleet.here, fleet.there):
        with pytest.raises(Unauthorised):
            await process.redeem(text)


async def test_a_pass_ends() -> None:
    fleet = Fleet()
    text = fleet.here.issue(TENANT, CALL)
    fleet.now_s += fleet.tickets[0].ttl_s
    with pytest.raises(Unauthorised):
        await fleet.there.redeem(text)
    assert not fleet.spent


async def test_a_used_pass_stays_used_though_a_clock_is_set_back() -> None:
    fleet = Fleet()
    text = fleet.here.issue(TENANT, CALL)
    await fleet.there.redeem(text)
    fleet.spent.clear()
    fleet.now_s -= 7200
    with pytest.raises(Unauthorised):
        await fleet.there.redeem(text)


async def test_nobody_makes_one_by_himself() -> None:
    fleet = Fleet()
    text = fleet.here.issue(TENANT, CALL)
    strange = FleetPasses(FleetTickets(), fleet.spend).issue(TENANT, CALL)
    for bad in ("", "x", "é", text[:-4], text[:30] + ("A" if text[30] != "A" else "B") + text[31:], strange):
        with pytest.raises(Unauthorised):
            await fleet.there.redeem(bad)


async def test_a_ticket_is_no_pass_and_a_pass_no_ticket() -> None:
    fleet = Fleet()
    ticket = fleet.tickets[0].issue(Identity(TENANT, None, frozenset({"telephony"})), 0.0)
    with pytest.raises(Unauthorised):
        await fleet.there.redeem(ticket)
    with pytest.raises(Unauthorised):
        fleet.tickets[1].redeem(fleet.here.issue(TENANT, CALL), 0.0)


async def test_a_new_secret_leaves_the_former_one_good() -> None:
    fleet = Fleet()
    text = fleet.here.issue(TENANT, CALL)
    fleet.tickets[1].secrets = [b"n" * 32, *fleet.tickets[1].secrets]
    assert await fleet.there.redeem(text) == Pass(TENANT, CALL)


async def test_while_nobody_knows_what_was_spent_nothing_is_let_in() -> None:
    fleet = Fleet()
    fleet.is_away = True
    with pytest.raises(Unavailable):
        await fleet.there.redeem(fleet.here.issue(TENANT, CALL))
