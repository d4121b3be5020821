import asyncio
from dataclasses import replace

import pytest

from server.live.call import TURN_ITEMS
from server.live.calls import LiveCalls
from server.speech.contract import Final, Interim, SpeechGap
from server.store.contract import ConversationRecord, CoverageRecord, GapRecord, UtteranceRecord
from server.wire.clock import Stamps
from server.wire.errors import Busy, NotFound, Overloaded, Unavailable
from server.wire.ingest import UtteranceIn
from server.wire.publication import Action, Annotation, CallState, Gap, Notice, Transcript
from tests.server.live.stations import POLICY, OnePolicy, make_stations
from tests.virtual_time import virtual_time

CALL = "call:c1"
NO_STAMPS = Stamps()


def said(text, revision=1, is_final=True, utterance_id="u1"):
    return UtteranceIn(
        utterance_id=utterance_id,
        revision=revision,
        speaker="customer",
        start_ms=0,
        end_ms=1000,
        text=text,
        is_final=is_final,
    )


async def open_call(stations, roles=(), max_calls=10, **changes):
    desk = LiveCalls(stations, max_calls=max_calls, grace_s=10.0)
    options = {"agent_id": "anna", "language": None, "roles": roles} | changes
    return desk, await desk.open("test", "c1", **options)


@virtual_time
async def test_a_call_is_told_on_its_own_and_its_agents_channel():
    stations = make_stations()
    _, source = await open_call(stations, customer_id="cust-7")
    await source.stop()
    for channel in (CALL, "agent:anna"):
        assert [p.state for p in stations.log.payloads(channel, CallState)] == ["started", "ended"]
    records = [r for r in stations.outbox.records if isinstance(r, ConversationRecord)]
    assert [(r.state, r.revision, r.ended_ms is None) for r in records] == [("started", 1, True), ("ended", 2, False)]
    assert {r.customer_id for r in records} == {"cust-7"}


class NamedBase:
    """A library whose one base holds these names."""

    def names(self, tenant, base):
        return ("Kia Sorento", "AutoCare Plus") if (tenant, base) == ("test", "faq") else ()


@virtual_time
async def test_recognisers_are_told_the_policys_words_then_the_names_of_its_base():
    told = []
    for knowledge in ("", "\nknowledge: faq"):
        policies = OnePolicy(f"{POLICY}keyterms: [courtesy car, Kia Sorento]{knowledge}")
        stations = replace(make_stations(), policies=policies, library=NamedBase())
        _, source = await open_call(stations)
        told.append(source.keyterms)
        await source.stop()
    assert told == [("courtesy car", "Kia Sorento"), ("courtesy car", "Kia Sorento", "AutoCare Plus")]


@virtual_time
async def test_speech_becomes_transcript_annotation_and_card_in_order():
    stations = make_stations()
    _, source = await open_call(stations, roles=("customer", "agent"))
    await source.on_speech("customer", Interim(0, 500, "I want to"), NO_STAMPS)
    await source.on_speech("customer", Final(0, 900, "I want to cancel my visit"), NO_STAMPS)
    await source.stop()
    kinds = [type(p).__name__ for p in stations.log.payloads(CALL)]
    assert kinds[:3] == ["CallState", "Transcript", "Transcript"]
    assert [p.is_final for p in stations.log.payloads(CALL, Transcript)] == [False, True]
    (annotation,) = stations.log.payloads(CALL, Annotation)  # the interim's came too late to matter
    assert (annotation.output, annotation.revision) == ("intent", 2)
    card = stations.log.payloads(CALL, Action)[0]
    assert (card.title, card.state, card.evidence[0].text) == ("Offer to move it", "new", "I want to cancel my visit")
    assert kinds[-1] == "CallState"
    assert stations.log.payloads(CALL, Action)[-1].state == "expire"  # no card outlives its call


@virtual_time
async def test_an_acknowledgement_waits_for_the_disk_and_guidance_does_not():
    stations = make_stations()
    _, source = await open_call(stations)
    stations.outbox.holding = True
    stored = await source.on_utterance(said("cancel my visit"), NO_STAMPS)
    await asyncio.sleep(1)
    assert stations.log.payloads(CALL, Action)
    assert not stored.done()
    stations.outbox.release()
    await stored
    await source.stop()


@virtual_time
async def test_audio_is_acknowledged_only_when_that_itself_is_durable():
    stations = make_stations()
    _, source = await open_call(stations, roles=("customer", "agent"))
    await source.stored(60_000)
    covered = [r for r in stations.outbox.records if isinstance(r, CoverageRecord)]
    assert [(r.speaker, r.covered_ms) for r in covered] == [("customer", 60_000), ("agent", 60_000)]
    stations.outbox.holding = True
    waiting = asyncio.create_task(source.stored(61_000))
    await asyncio.sleep(1)
    assert not waiting.done()
    stations.outbox.release()
    await waiting
    await source.stop()


@virtual_time
async def test_what_is_not_newer_is_acknowledged_and_changes_nothing():
    stations = make_stations()
    _, source = await open_call(stations)
    for utterance in (said("one", 2), said("zero", 1), said("late", 3, is_final=False)):
        await (await source.on_utterance(utterance, NO_STAMPS))
    await source.stop()
    assert [p.text for p in stations.log.payloads(CALL, Transcript)] == ["one"]


@virtual_time
async def test_the_last_words_are_annotated_before_the_end():
    stations = make_stations()
    stations.orchestrator.delay_s = 0.5
    _, source = await open_call(stations)
    await source.on_utterance(said("hello"), NO_STAMPS)
    await source.stop()
    kinds = [type(p).__name__ for p in stations.log.payloads(CALL)]
    assert kinds.index("Annotation") < len(kinds) - 1


@virtual_time
async def test_an_engine_in_trouble_holds_no_call_open():
    stations = make_stations()
    stations.orchestrator.delay_s = 3600
    _, source = await open_call(stations)
    await source.on_utterance(said("hello"), NO_STAMPS)
    before_s = asyncio.get_running_loop().time()
    await source.stop()
    assert asyncio.get_running_loop().time() - before_s < 5
    assert stations.orchestrator.cancelled == ["test/c1"]


@virtual_time
async def test_an_overloaded_engine_costs_annotations_and_one_notice():
    stations = make_stations()
    stations.orchestrator.is_overloaded = True
    _, source = await open_call(stations)
    for number in range(20):
        await (await source.on_utterance(said(f"text {number}", number + 1, utterance_id=f"u{number}"), NO_STAMPS))
    await source.stop()
    assert len(stations.log.payloads(CALL, Transcript)) == 20
    assert [p.code for p in stations.log.payloads(CALL, Notice)] == ["shedding"]
    assert stations.metrics.registry.get_sample_value("cueline_shed_total", {"what": "annotation"}) == 20


@virtual_time
async def test_a_failing_model_costs_that_annotation_only():
    stations = make_stations()
    stations.orchestrator.fails = True
    _, source = await open_call(stations)
    await (await source.on_utterance(said("one"), NO_STAMPS))
    await asyncio.sleep(1)
    stations.orchestrator.fails = False
    await (await source.on_utterance(said("two", utterance_id="u2"), NO_STAMPS))
    await source.stop()
    assert [p.utterance_id for p in stations.log.payloads(CALL, Annotation)] == ["u2"]


@virtual_time
async def test_gaps_are_told_stored_and_counted():
    stations = make_stations()
    _, source = await open_call(stations, roles=("customer", "agent"))
    await source.on_speech("agent", SpeechGap(1000, None, "recogniser_lost", "open"), NO_STAMPS)
    await source.on_speech("agent", SpeechGap(1000, 3500, "recogniser_lost", "closed"), NO_STAMPS)
    await source.stop()
    assert [(p.from_ms, p.to_ms, p.state) for p in stations.log.payloads(CALL, Gap)] == [
        (1000, None, "open"),
        (1000, 3500, "closed"),
    ]
    assert [r.revision for r in stations.outbox.records if isinstance(r, GapRecord)] == [1, 2]
    assert stations.metrics.registry.get_sample_value("cueline_gap_seconds_total", {"state": "closed"}) == 2.5


@virtual_time
async def test_a_card_that_was_used_is_taken_from_every_screen():
    stations = make_stations()
    desk, source = await open_call(stations)
    await (await source.on_utterance(said("cancel my visit"), NO_STAMPS))
    await asyncio.sleep(0.1)
    (card,) = stations.log.payloads(CALL, Action)
    desk.receipt("test", "c1", card.id, "used")
    desk.receipt("test", "nowhere", card.id, "used")
    await asyncio.sleep(0.1)
    assert [p.state for p in stations.log.payloads(CALL, Action)] == ["new", "expire"]
    await source.stop()


@virtual_time
async def test_a_side_has_one_source_and_may_be_taken_up_again():
    stations = make_stations()
    desk, source = await open_call(stations, roles=("customer",))
    with pytest.raises(Busy):
        await desk.open("test", "c1", agent_id=None, language=None, roles=("customer", "agent"))
    other = await desk.open("test", "c1", agent_id=None, language=None, roles=("agent",))
    await source.stop()
    again = await desk.open("test", "c1", agent_id=None, language=None, roles=("customer",))
    await again.stop()
    assert [p.state for p in stations.log.payloads(CALL, CallState)] == ["started"]
    await other.stop()
    assert [p.state for p in stations.log.payloads(CALL, CallState)] == ["started", "ended"]


@virtual_time
async def test_a_source_that_has_nothing_of_before_goes_on_when_it_is_now():
    desk, source = await open_call(make_stations(), roles=("customer",))
    assert source.now_ms() == source.resume_ms() == 0
    other = await desk.open("test", "c1", agent_id=None, language=None, roles=("agent",))
    source.lost(5_000.0)
    await asyncio.sleep(1)
    other.lost(4_000.0)
    await asyncio.sleep(2)
    back = await desk.open("test", "c1", agent_id=None, language=None, roles=("customer", "agent"))
    assert (back.now_ms(), back.resume_ms()) == (8_000, 0)
    await back.stop()
    anew = await desk.open("test", "c1", agent_id=None, language=None, roles=("customer",))
    assert anew.now_ms() == 0, "another life of the call has a clock of its own"
    await anew.stop()


@virtual_time
async def test_a_lost_source_has_time_to_come_back():
    stations = make_stations()
    desk, source = await open_call(stations)
    source.lost()
    await asyncio.sleep(9)
    back = await desk.open("test", "c1", agent_id=None, language=None, roles=())
    await asyncio.sleep(60)
    assert [p.state for p in stations.log.payloads(CALL, CallState)] == ["started"]
    back.lost()
    await asyncio.sleep(11)
    assert stations.log.payloads(CALL, CallState)[-1].reason == "source_lost"


@virtual_time
async def test_no_more_calls_than_allowed_and_no_unknown_tenant():
    stations = make_stations()
    desk, source = await open_call(stations, max_calls=1)
    with pytest.raises(Overloaded):
        await desk.open("test", "c2", agent_id=None, language=None, roles=())
    await source.stop()
    with pytest.raises(NotFound):
        await desk.open("nobody", "c3", agent_id=None, language=None, roles=())
    assert stations.metrics.registry.get_sample_value("cueline_live_calls") == 0


@virtual_time
async def test_a_resumed_call_knows_what_was_stored_and_a_store_that_is_away_stops_no_call():
    stations = make_stations()
    stations.store.known = {"u1": (7, True)}
    desk, source = await open_call(stations)
    await (await source.on_utterance(said("again", 7), NO_STAMPS))
    await source.stop()
    assert not [r for r in stations.outbox.records if isinstance(r, UtteranceRecord)]
    stations.store.is_away = True
    source = await desk.open("test", "c1", agent_id=None, language=None, roles=())
    await (await source.on_utterance(said("new", 1, utterance_id="u2"), NO_STAMPS))
    await source.stop()
    assert [p.text for p in stations.log.payloads(CALL, Transcript)] == ["new"]


@virtual_time
async def test_shutdown_ends_every_call():
    stations = make_stations()
    desk, _ = await open_call(stations)
    await desk.stop()
    assert stations.log.payloads(CALL, CallState)[-1].reason == "shutdown"


@virtual_time
async def test_nothing_begins_during_shutdown_and_a_refusal_leaves_nothing_behind():
    desk, source = await open_call(make_stations())
    await source.stop()
    await desk.stop()
    for number in range(3):
        with pytest.raises(Unavailable, match="shutting down"):
            await desk.open("test", f"late-{number}", agent_id=None, language=None, roles=())
    assert not desk._opening


@virtual_time
async def test_a_disk_that_fails_at_the_end_keeps_neither_the_call_nor_its_id():
    stations = make_stations()
    desk, source = await open_call(stations, roles=("customer", "agent"))
    await source.on_utterance(said("hello"), NO_STAMPS)
    stations.outbox.is_broken = True
    with pytest.raises(Unavailable):
        await source.stop()
    assert stations.log.payloads(CALL, CallState)[-1].state == "ended"
    assert desk.agent_of("test", "c1") == (False, None)
    stations.outbox.is_broken = False
    again = await desk.open("test", "c1", agent_id="anna", language=None, roles=("customer", "agent"))
    await again.stop()
    await asyncio.sleep(5)
    states = [r.state for r in stations.outbox.records if isinstance(r, ConversationRecord)]
    assert states.count("ended") == 2, "the first call's was taken when there was room"


@virtual_time
async def test_a_flooded_call_lets_others_have_their_turns():
    stations = make_stations()
    _, source = await open_call(stations)
    stored = [await source.on_utterance(said(f"number {n}", utterance_id=f"u{n}"), NO_STAMPS) for n in range(100)]
    turns = 0
    while not stored[-1].done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 100 / TURN_ITEMS
    await source.stop()


@virtual_time
async def test_a_side_that_comes_back_to_a_live_call_goes_on_where_it_was_safe():
    stations = make_stations()
    desk, customer = await open_call(stations, roles=("customer",))
    agent = await desk.open("test", "c1", agent_id=None, language=None, roles=("agent",))
    assert agent.resume_ms() == 0
    await agent.stop(call_ended=False)
    stations.store.covered["agent"] = 900
    again = await desk.open("test", "c1", agent_id=None, language=None, roles=("agent",))
    assert again.resume_ms() == 900
    await again.stop()
    await customer.stop()


@virtual_time
async def test_a_call_goes_from_agent_to_agent():
    stations = make_stations()
    desk, source = await open_call(stations, agent_id=None)
    for agent_id in ("anna", "anna", "ben"):
        source.assign(agent_id)
        await source.stored(0)
    assert await desk_owner(desk) == "ben"
    await source.stop()
    states = {agent: stations.log.payloads(f"agent:{agent}", CallState) for agent in ("anna", "ben")}
    assert [(p.state, p.reason) for p in states["anna"]] == [("started", ""), ("ended", "transferred")]
    assert [p.state for p in states["ben"]] == ["started", "ended"]
    assert [p.agent_id for p in stations.log.payloads(CALL, CallState)] == [None, "anna", "ben", "ben"]
    records = [r for r in stations.outbox.records if isinstance(r, ConversationRecord)]
    assert [(r.agent_id, r.revision) for r in records] == [(None, 1), ("anna", 2), ("ben", 3), ("ben", 4)]


async def desk_owner(desk):
    return desk.agent_of("test", "c1")[1]
