"""Two processes' fleets on one real Redis: a call moves whole, and what agents send finds it wherever it lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.auth.fleet_tickets import FleetTickets
from server.config.settings import IngestSettings, LogSettings, Settings
from server.fleet import FORGET, SECRET, Fleet, SharedFleet, fleet_of
from server.ingest.audio_socket import AudioEndpoint
from server.keys.keyring import Keyring
from server.keys.local import LocalKeys
from server.live import LiveCalls, Stations
from server.log.contract import ChannelKey
from server.log.leases import Elsewhere
from server.log.redis import RedisLog
from server.log.redis_leases import SCRIPTS
from server.metrics import Metrics
from server.privacy.places import CachePlace
from server.speech.contract import Final, Interim
from server.speech.scripted import ScriptedRecogniser
from server.wire.clock import Stamps
from server.wire.errors import ConfigError, Conflict, Unavailable
from server.wire.ids import AgentId, ConversationId, TenantId
from tests.server.live.stations import MemoryOutbox, MemoryStore, OnePolicy, ScriptedOrchestrator
from tests.server.log.events import decoded
from tests.server.log.redis_server import RedisServer, redis_server

TENANT, CALL = TenantId("test"), ConversationId("c1")
CHANNEL = ChannelKey(TENANT, "call:c1")


@dataclass
class Process:
    log: RedisLog
    fleet: Fleet
    calls: LiveCalls
    store: MemoryStore

    async def open(self, agent_id: str | None = "anna"):
        agent = AgentId(agent_id) if agent_id is not None else None
        return await self.calls.open(TENANT, CALL, agent_id=agent, language="en", roles=("customer",))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def processes(server: RedisServer, tmp_path: Path) -> AsyncIterator[list[Process]]:
    settings = Settings(log=LogSettings(backend="redis", url=server.url, lease_ms=600))
    found = []
    for _ in range(2):
        keys = Keyring(LocalKeys(tmp_path))
        await keys.prepare(TENANT)
        log, store = RedisLog(server.url, timeout_s=5, scripts=SCRIPTS, keys=keys), MemoryStore()
        await log.start()
        fleet = fleet_of(log, settings)
        metrics = Metrics()
        stations = Stations(
            log, MemoryOutbox(), store, ScriptedOrchestrator(), OnePolicy(), metrics, leases=fleet.leases
        )
        calls = LiveCalls(stations, max_calls=10, grace_s=0.3)
        audio = AudioEndpoint(calls, ScriptedRecogniser({}), None, IngestSettings(), metrics)
        await fleet.start(calls, [audio])
        found.append(Process(log, fleet, calls, store))
    yield found
    for process in found:
        await process.calls.stop()
        await process.fleet.stop()
        await process.log.stop()


async def transcripts(process: Process) -> list[tuple[str, int, bool, str]]:
    snapshot = (await process.log.recover(CHANNEL, None)).snapshot
    found = [decoded(entry)["d"] for entry in snapshot if entry.kind == "transcript"]
    return [(item["utterance_id"], item["revision"], item["is_final"], item["text"]) for item in found]


async def test_a_call_handed_over_goes_on_where_its_audio_was_safe_and_ids_stay(processes: list[Process]) -> None:
    old, new = processes
    source = await old.open()
    await source.on_speech("customer", Final(start_ms=0, end_ms=1500, text="my oil light"), Stamps())
    await source.on_speech("customer", Interim(start_ms=1800, end_ms=2400, text="is still"), Stamps())
    await source.call.stored()
    epoch = (await old.log.recover(CHANNEL, None)).position.epoch
    with pytest.raises(Elsewhere) as elsewhere:
        await new.open()
    assert elsewhere.value.address
    await old.fleet.leave_calls(old.calls)
    source = await new.open()
    assert source.resume_ms() == 1500
    await source.on_speech("customer", Final(start_ms=1790, end_ms=2600, text="is still on"), Stamps())
    await source.call.stored()
    assert await transcripts(new) == [
        ("customer-0", 1, True, "my oil light"),
        ("customer-1800", 2, True, "is still on"),
    ]
    assert (await new.log.recover(CHANNEL, None)).position.epoch == epoch
    await source.stop()


async def test_a_process_that_leaves_says_who_has_its_calls_by_now(processes: list[Process]) -> None:
    old, new = processes
    await (await old.open()).call.stored()
    await old.fleet.leave_calls(old.calls)
    source = await new.open()
    with pytest.raises(Elsewhere) as elsewhere:
        await old.open()
    assert elsewhere.value.address
    await source.stop()
    with pytest.raises(Unavailable):
        await old.open()


async def test_who_stops_in_the_midst_of_a_hand_over_has_to_come_again(processes: list[Process]) -> None:
    old, new = processes
    source = await old.open()
    await source.call.stored()
    await old.fleet.leave_calls(old.calls)
    with pytest.raises(Unavailable):
        await source.stop()  # what it said last may not be safe, and the call has not ended
    back = await new.open()
    await back.stop()
    states = [decoded(entry)["d"] for entry in await new.log.read(CHANNEL, None, 1000) if entry.kind == "call"]
    assert [state["reason"] for state in states if state["state"] == "ended"] == ["stopped"]


async def test_a_call_that_nobody_comes_back_to_ends_once(processes: list[Process]) -> None:
    old, new = processes
    source = await old.open()
    await source.call.stored()
    states: list[str] = []
    ended = asyncio.Event()

    def see(entries) -> None:
        states.extend(decoded(entry)["d"]["state"] for entry in entries if entry.kind == "call")
        if "ended" in states:
            ended.set()

    end = new.log.follow(CHANNEL, see)
    await new.log.recover(CHANNEL, None)
    await old.fleet.leave_calls(old.calls)
    async with asyncio.timeout(10):
        await ended.wait()
    assert states == ["started", "ended"]
    end()


async def test_receipts_questions_and_owners_are_found_in_any_process(processes: list[Process]) -> None:
    here, there = processes
    source = await here.open("anna")
    taken: list[tuple[str, str]] = []
    asked: list[str] = []
    told = asyncio.Event()
    source.call.receipt = lambda action_id, event: (taken.append((action_id, event)), told.set())
    source.call.ask = lambda text: (asked.append(text), told.set())
    async with asyncio.timeout(10):
        there.fleet.receipt(TENANT, CALL, "keep-1", "dismissed")
        await told.wait()
        told.clear()
        await there.fleet.ask(TENANT, CALL, "how long does it take")
        await told.wait()
    assert (taken, asked) == ([("keep-1", "dismissed")], ["how long does it take"])
    assert await there.fleet.owners(there.store).agent_of(TENANT, CALL) == (True, "anna")
    with pytest.raises(Conflict):
        await there.fleet.ask(TENANT, "c9", "anybody there")
    await source.stop()


async def test_who_listens_on_redis_learns_nothing_of_a_question(
    server: RedisServer, processes: list[Process], caplog: pytest.LogCaptureFixture
) -> None:
    here, there = processes
    source = await here.open("anna")
    asked: asyncio.Queue[str] = asyncio.Queue()
    source.call.ask = asked.put_nowait
    owner = await there.fleet.leases.owner(CHANNEL)
    topic = f"cueline:process/{owner}"
    async with server.listening(topic) as overheard, asyncio.timeout(10):
        await there.fleet.ask(TENANT, CALL, "is four thousand my card number")
        assert await asked.get() == "is four thousand my card number"
        said = await overheard()
        assert CALL.encode() in said
        assert b"card" not in said
        # What nobody could have sealed changes nothing, and the next question is heard all the same.
        server.command("PUBLISH", topic, "no message")
        server.command("PUBLISH", topic, said.replace(b"c1", b"c2").decode("latin-1"))
        await there.fleet.ask(TENANT, CALL, "and the next one")
        assert await asked.get() == "and the next one"
    assert "what this version does not know" in caplog.text
    await source.stop()


async def test_who_reads_redis_cannot_make_tickets_nor_who_writes_it(
    server: RedisServer, processes: list[Process]
) -> None:
    here, there = (process.fleet for process in processes)
    assert isinstance(here.tickets, FleetTickets)
    assert isinstance(there, SharedFleet)
    assert isinstance(there.tickets, FleetTickets)
    secret = here.tickets.secrets[0]
    assert secret in there.tickets.secrets
    kept = server.command("GET", SECRET)
    assert b"_fleet" in kept
    assert secret not in kept
    assert secret.hex().encode() not in kept
    server.command("SET", SECRET, "a secret that somebody else knows")
    with pytest.raises(ConfigError):
        await there._share_secret()
    assert there.tickets.secrets[0] == secret


async def test_a_process_with_keys_of_its_own_is_told_to_share_them(processes: list[Process], tmp_path: Path) -> None:
    there = processes[1].fleet
    assert isinstance(there, SharedFleet)
    there._log.keys = Keyring(LocalKeys(tmp_path / "of its own"))
    with pytest.raises(ConfigError) as raised:
        await there._share_secret()
    assert raised.value.field == "keys.folder"


async def test_a_cache_is_emptied_in_every_process(processes: list[Process]) -> None:
    here, there = (process.fleet for process in processes)
    emptied: dict[str, asyncio.Event] = {"here": asyncio.Event(), "there": asyncio.Event()}
    here.everywhere(emptied["here"].set)
    ask_others = there.everywhere(emptied["there"].set)
    for process in processes:
        await process.log._push.joined(FORGET)
    place = CachePlace("predictions", lambda: 7, ask_others)
    assert await place.erase(TENANT, CALL) == 7
    async with asyncio.timeout(10):
        await asyncio.gather(*(event.wait() for event in emptied.values()))
