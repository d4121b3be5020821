import asyncio

import pytest

from server.live.records import Records
from server.store.contract import CoverageRecord
from server.wire.errors import Unavailable
from tests.server.live.stations import MemoryOutbox
from tests.virtual_time import virtual_time


class SmallOutbox(MemoryOutbox):
    """Has room for so many."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def put(self, record):
        self.is_broken = len(self.records) >= self.room
        if not self.is_broken:
            return super().put(record)
        future = asyncio.get_running_loop().create_future()
        future.set_exception(Unavailable("full"))
        return future


def record(number):
    return CoverageRecord(tenant_id="t", conversation_id="c", speaker="agent", covered_ms=number)


@virtual_time
async def test_what_a_full_outbox_refused_goes_first_when_there_is_room():
    outbox = SmallOutbox(2)
    records = Records(outbox)
    assert records.stored() is None
    for number in range(5):
        records.put(record(number))
    assert not records.is_empty
    with pytest.raises(Unavailable):
        await records.stored()
    outbox.room = 4
    with pytest.raises(Unavailable):
        await records.stored()
    outbox.room = 10
    await records.stored()
    records.put(record(5))
    assert outbox.records == [record(number) for number in range(6)]
    assert records.is_empty


@virtual_time
async def test_a_disk_that_failed_under_the_newest_record_is_asked_again():
    outbox = MemoryOutbox()
    records = Records(outbox)
    outbox.is_broken = True
    outbox.holding = True
    failed = asyncio.get_running_loop().create_future()
    outbox.put = lambda record: failed
    records.put(record(1))
    failed.set_exception(Unavailable("the disk fails"))
    del outbox.put
    outbox.is_broken = outbox.holding = False
    await records.stored()
    assert outbox.records == [record(1)]


@virtual_time
async def test_a_call_that_is_over_is_rid_of_the_rest():
    outbox = SmallOutbox(0)
    records = Records(outbox)
    records.put(record(1))
    rest = asyncio.create_task(records.empty())
    await asyncio.sleep(5)
    assert not rest.done()
    outbox.room = 1
    await rest
    assert outbox.records == [record(1)]
