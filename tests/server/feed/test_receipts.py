"""A receipt is kept only for a card that the call has shown."""

from __future__ import annotations

from typing import Any

import pytest

from server.auth.identity import Identity
from server.feed.receipts import Receipts
from server.metrics import Metrics
from server.wire.errors import NotFound, Unavailable
from server.wire.feed import Receipt
from server.wire.ids import AgentId
from tests.server.feed.harness import CALL, TENANT, MemoryLog, action
from tests.virtual_time import virtual_time

ME = Identity(TENANT, AgentId("a1"), frozenset({"agent"}))


class Rooms:
    """Live calls, store and outbox: what reached them, and what they know."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.kept: list[Any] = []
        self.stored: set[str] = set()
        self.drains_into_store: set[str] = set()
        self.is_away = False
        self.log = MemoryLog()
        self.receipts = Receipts(self, self.log, self, self, Metrics())  # type: ignore[arg-type]

    def receipt(self, tenant_id: str, conversation_id: str, action_id: str, event: str) -> None:
        self.told.append(f"{conversation_id} {action_id} {event}")

    async def put(self, record: Any) -> None:
        self.kept.append(record)

    async def has_action(self, tenant_id: str, conversation_id: str, action_id: str) -> bool:
        if self.is_away:
            raise Unavailable("away")
        return action_id in self.stored

    async def drained(self) -> None:
        self.stored |= self.drains_into_store


async def test_a_card_on_the_screen_is_known() -> None:
    rooms = Rooms()
    rooms.log.append_now(CALL, action(1))
    await rooms.receipts.take(ME, CALL, Receipt(id="a1", event="used"))
    assert rooms.told == ["1 a1 used"]
    assert [(kept.agent_id, kept.event) for kept in rooms.kept] == [("a1", "used")]


async def test_a_card_of_an_hour_ago_is_known_to_the_store() -> None:
    rooms = Rooms()
    rooms.stored = {"a9"}
    await rooms.receipts.take(ME, CALL, Receipt(id="a9", event="wrong"))
    assert len(rooms.kept) == 1


async def test_a_card_that_came_and_went_is_waited_for() -> None:
    rooms = Rooms()
    rooms.drains_into_store = {"a9"}
    await rooms.receipts.take(ME, CALL, Receipt(id="a9", event="shown"))
    assert len(rooms.kept) == 1


async def test_a_card_that_never_was_is_refused_and_leaves_nothing() -> None:
    rooms = Rooms()
    rooms.log.append_now(CALL, action(1))
    with pytest.raises(NotFound) as caught:
        await rooms.receipts.take(ME, CALL, Receipt(id="made-up", event="used"))
    assert caught.value.field == "id"
    assert (rooms.told, rooms.kept) == ([], [])


@virtual_time
async def test_a_store_that_is_away_costs_no_receipt() -> None:
    rooms = Rooms()
    rooms.is_away = True
    await rooms.receipts.take(ME, CALL, Receipt(id="a9", event="used"))
    assert len(rooms.kept) == 1
