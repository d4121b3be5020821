import asyncio

from server.live.calls import LiveCalls
from server.live.leftover import adopt_leftovers
from server.store.contract import ConversationRecord
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
    stations.store.unended_calls = [one for one in stations.outbox.records if isinstance(one, ConversationRecord)]
    return LiveCalls(stations, max_calls=9, grace_s=GRACE_S)


def told(stations):
    """What a store would be told of calls by now."""
    return [(one.state, one.revision) for one in stations.outbox.records if isinstance(one, ConversationRecord)]


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


@virtual_time
async def test_a_call_is_in_the_outbox_before_anybody_is_told_of_it_and_ends_if_its_process_dies_between():
    stations = make_stations()
    stations.outbox.holding = True
    opening = asyncio.create_task(
        LiveCalls(stations, max_calls=9, grace_s=GRACE_S).open(
            "test", "c1", agent_id="anna", language="es", roles=("customer",)
        )
    )
    await asyncio.sleep(0.1)
    assert told(stations) == [("started", 1)]
    assert states(stations, "call:c1") == []
    opening.cancel()
    await asyncio.wait([opening])
    stations.outbox.holding = False
    stations.store.unended_calls = list(stations.outbox.records)
    desk = LiveCalls(stations, max_calls=9, grace_s=GRACE_S)
    await adopt_leftovers(desk, stations.store, Outbox(), ["test"])
    assert desk.agents() == {("test", "c1"): "anna"}
    await asyncio.sleep(GRACE_S + 1)
    assert [states(stations, "agent:anna")[-1], told(stations)[-1]] == [("ended", "source_lost"), ("ended", 2)]
    assert stations.outbox.records[-1].language == "es"


@virtual_time
async def test_a_call_whose_process_died_in_its_end_is_over_for_its_agent_and_the_store_as_well():
    stations = make_stations()
    first = LiveCalls(stations, max_calls=9, grace_s=GRACE_S)
    source = await first.open("test", "c1", agent_id="anna", language="es", roles=("customer",))
    dying = asyncio.Event()

    async def die(*_):
        dying.set()
        await asyncio.Event().wait()

    source.call._tell_agent = die
    ending = asyncio.create_task(source.stop())
    await dying.wait()
    ending.cancel()
    source.call._task.cancel()
    await asyncio.wait([ending, source.call._task])
    assert [states(stations, channel)[-1][0] for channel in ("call:c1", "agent:anna")] == ["ended", "started"]
    stations.store.unended_calls = list(stations.outbox.records)
    desk = LiveCalls(stations, max_calls=9, grace_s=GRACE_S)
    await adopt_leftovers(desk, stations.store, Outbox(), ["test"])
    assert desk.agents() == {}
    assert states(stations, "agent:anna")[-1] == ("ended", "stopped")
    assert told(stations) == [("started", 1), ("ended", 2)]
    assert stations.outbox.records[-1].language == "es"


@virtual_time
async def test_a_disk_that_does_not_answer_holds_no_call_up():
    stations = make_stations()
    stations.outbox.holding = True
    desk = LiveCalls(stations, max_calls=9, grace_s=GRACE_S)
    source = await desk.open("test", "c1", agent_id="anna", language=None, roles=("customer",))
    assert states(stations, "call:c1") == [("started", "")]
    stations.outbox.release()
    await source.stop()
