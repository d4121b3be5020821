import asyncio

from server.live.calls import LiveCalls
from server.live.leftover import adopt_leftovers
from server.wire.errors import Unavailable
from server.wire.publication import CallState
from tests.server.live.stations import make_stations
from tests.virtual_time import virtual_time

GRACE_S = 10.0


class Outbox:
    def __init__(self, *, is_away=False):
        self.is_away = is_away

    async def drained(self):
        if self.is_away:
            raise Unavailable("away")


async def died(stations):
    """A call whose process is gone, and the desk of the next life."""
    first = LiveCalls(stations, max_calls=9, grace_s=GRACE_S)
    source = await first.open("test", "c1", agent_id="anna", language=None, roles=("customer",))
    source.call._task.cancel()
    await asyncio.wait([source.call._task])
    return LiveCalls(stations, max_calls=9, grace_s=GRACE_S)


def states(stations, channel):
    return [(state.state, state.reason) for state in stations.log.payloads(channel, CallState)]


@virtual_time
async def test_a_call_that_nobody_comes_back_to_ends_for_everybody():
    stations = make_stations()
    desk = await died(stations)
    await adopt_leftovers(desk, stations.store, Outbox(), ["test"])
    await asyncio.sleep(GRACE_S + 1)
    for channel in ("call:c1", "agent:anna"):
        assert states(stations, channel)[-1] == ("ended", "source_lost")
    assert desk.agents() == {}


@virtual_time
async def test_a_source_that_comes_back_goes_on_with_it():
    stations = make_stations()
    desk = await died(stations)
    await adopt_leftovers(desk, stations.store, Outbox(), ["test"])
    source = await desk.open("test", "c1", agent_id="anna", language=None, roles=("customer",))
    await asyncio.sleep(GRACE_S + 1)
    assert states(stations, "call:c1")[-1][0] == "started"
    await source.stop()


@virtual_time
async def test_a_call_that_ended_is_left_alone_and_so_are_all_while_the_store_is_away():
    stations = make_stations()
    desk = await died(stations)
    await adopt_leftovers(desk, stations.store, Outbox(is_away=True), ["test"])
    assert desk.agents() == {}
    await (await desk.open("test", "c1", agent_id="anna", language=None, roles=("customer",))).stop()
    before = states(stations, "call:c1")
    await adopt_leftovers(desk, stations.store, Outbox(), ["test"])
    await asyncio.sleep(GRACE_S + 1)
    assert states(stations, "call:c1") == before
