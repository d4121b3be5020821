"""A call that goes on in another process: what its policy knew is known there, and no card means two things."""

import asyncio
import zlib

import msgspec

from server.knowledge import AssistState
from server.knowledge.answers import Shown
from server.knowledge.questions import QuestionsState
from server.live.calls import LiveCalls
from server.live.memory import MAX_UNSAVED_FINALS, CallMemory, pack, resume
from server.live.stations import Pinned
from server.log.contract import ChannelKey, Event
from server.orchestrator import TurnState
from server.policy.loading import parse_policy
from server.policy.rulebook import RuleBook
from server.policy.runtime import CallPolicy
from server.speech.contract import SpeechGap
from server.store.contract import ActionRecord, ConversationRecord, GapRecord, UtteranceRecord
from server.wire.clock import Stamps
from server.wire.ingest import UtteranceIn
from server.wire.publication import Action, Annotation, CallState, Checklist, Transcript
from server.wire.utterance import Utterance
from tests.server.live.stations import make_stations
from tests.virtual_time import virtual_time

CALL = "call:c1"
KEY = ChannelKey("test", CALL)

POLICY = """
tenant: test
version: 1
graph: guidance
outputs: {intent: {}}
moments:
  - {id: cancels, speaker: customer, any: [{lexical: cancel my}], once: true}
  - {id: angry, speaker: customer, any: [{lexical: angry}], cooldown_s: 60}
actions:
  - {id: keep, on: cancels, type: hint, title: Offer to move it, priority: 5, ttl_s: 300}
  - {id: calm, on: angry, type: hint, title: Calm down, priority: 5, ttl_s: 5}
checklist:
  - {id: greet, title: Greet, done_when: {any: [{lexical: hello}]}}
attention: {max_cards_per_min: 4}
"""


class Desk:
    """Gives the policy that is set."""

    def __init__(self) -> None:
        self.text = POLICY

    def pin(self, tenant_id):
        policy = parse_policy(self.text, source="test.yaml")
        return Pinned(RuleBook(policy), policy.name, policy.languages, guide=None)


class World:
    """A log and a store that outlive every process."""

    def __init__(self) -> None:
        stations = make_stations()
        self.policies = Desk()
        self._last = None
        self.stations = type(stations)(
            stations.log, stations.outbox, stations.store, stations.orchestrator, self.policies, stations.metrics
        )

    async def process(self, **changes):
        """A process that opens the call; the one before it dies."""
        if self._last is not None and not self._last.call.is_over:
            self._last.call._task.cancel()
            await asyncio.wait([self._last.call._task])
        desk = LiveCalls(self.stations, max_calls=10, grace_s=10.0)
        options = {"agent_id": "anna", "language": None, "roles": ()} | changes
        self._last = await desk.open("test", "c1", **options)
        return self._last

    def published(self, kind):
        return self.stations.log.payloads(CALL, kind)

    def records(self, kind):
        return [record for record in self.stations.outbox.records if isinstance(record, kind)]


async def say(source, number, text, speaker="customer"):
    utterance = UtteranceIn(
        utterance_id=f"u{number}",
        revision=1,
        speaker=speaker,
        start_ms=number * 2000,
        end_ms=number * 2000 + 1000,
        text=text,
        is_final=True,
    )
    await (await source.on_utterance(utterance, Stamps()))
    await asyncio.sleep(1)


async def with_a_card(world: World):
    """A process opens the call, which shows its first card."""
    process = await world.process()
    await say(process, 1, "hello", "agent")
    await say(process, 2, "cancel my visit")


@virtual_time
async def test_what_happened_once_happens_once_whoever_owns_the_call():
    world = World()
    await with_a_card(world)
    second = await world.process()
    await say(second, 3, "cancel my other visit")
    assert [(card.id, card.state) for card in world.published(Action)] == [("keep-1", "new")]
    second.call.receipt("keep-1", "used")
    await asyncio.sleep(1)
    last = world.published(Action)[-1]
    assert (last.id, last.revision, last.state, last.reason) == ("keep-1", 2, "expire", "used")
    lists = world.published(Checklist)
    assert [board.revision for board in lists] == [1, 2], "a step that was done is no news"
    assert lists[-1].items[0].is_done
    await second.stop()


@virtual_time
async def test_a_cool_down_and_the_end_of_a_card_go_on():
    world = World()
    first = await world.process()
    await say(first, 1, "I am angry")
    second = await world.process()
    await say(second, 2, "I am angry")
    await asyncio.sleep(10)
    assert [(card.id, card.state) for card in world.published(Action)] == [("calm-1", "new"), ("calm-1", "expire")]
    await say(second, 40, "I am angry")
    assert world.published(Action)[-1].id == "calm-2"
    await second.stop()


@virtual_time
async def test_words_that_nobody_judged_are_judged_by_the_next_owner():
    world = World()
    first = await world.process()
    await say(first, 1, "good morning")
    said = Transcript(
        utterance_id="u2",
        revision=1,
        speaker="customer",
        start_ms=4000,
        end_ms=5000,
        text="cancel my visit",
        is_final=True,
    )
    await world.stations.log.append(KEY, [Event(said, Stamps())])  # its owner died before it thought
    second = await world.process()
    await asyncio.sleep(1)
    assert [(card.id, card.evidence[0].utterance_id) for card in world.published(Action)] == [("keep-1", "u2")]
    assert [said.utterance_id for said in world.published(Transcript)] == ["u1", "u2"], "said once"
    assert {note.utterance_id for note in world.published(Annotation)} == {"u1", "u2"}
    await second.stop()


@virtual_time
async def test_finals_whose_annotations_had_not_come_are_annotated_again_one_after_the_other():
    world = World()
    orchestrator = world.stations.orchestrator
    first = await world.process()
    await say(first, 1, "good morning")
    orchestrator.last_turns["test/c1"] = (TurnState("u1", 2000, "utterance", 1, b"\0\0\0\0"),)
    orchestrator.delay_s = 1000.0
    await say(first, 2, "cancel my visit")  # its card saves what is known by now
    await say(first, 3, "on monday")
    orchestrator.last_turns.clear()
    orchestrator.delay_s, num_asked = 0.01, len(orchestrator.asked)
    second = await world.process()
    assert [turn.utterance_id for turn in orchestrator.last_turns["test/c1"]] == ["u1"]
    assert [said.utterance_id for said in orchestrator.asked[num_asked:]] == ["u2"], "the next one waits for it"
    await asyncio.sleep(1)
    assert [said.utterance_id for said in orchestrator.asked[num_asked:]] == ["u2", "u3"]
    assert {note.utterance_id for note in world.published(Annotation)} == {"u1", "u2", "u3"}
    assert [card.id for card in world.published(Action)] == ["keep-1"]
    await second.stop()


@virtual_time
async def test_long_talk_without_guidance_is_not_all_judged_again():
    world = World()
    first = await world.process()
    for number in range(3 * MAX_UNSAVED_FINALS):
        await say(first, number, "good morning")
    before = len(world.stations.orchestrator.asked)
    second = await world.process()
    assert len(world.stations.orchestrator.asked) - before < MAX_UNSAVED_FINALS
    await second.stop()


@virtual_time
async def test_another_policy_and_another_call_of_the_id_never_use_a_cards_id_again():
    world = World()
    first = await world.process()
    await say(first, 1, "cancel my visit")
    world.policies.text = POLICY.replace("version: 1", "version: 2")
    second = await world.process()
    abandoned = world.published(Action)[-1]
    assert (abandoned.id, abandoned.revision, abandoned.state) == ("keep-1", 2, "expire")
    await say(second, 2, "cancel my visit")
    assert [card.id for card in world.published(Action) if card.state == "new"] == ["keep-1", "keep-2"]
    await second.stop()
    third = await world.process()
    await say(third, 3, "cancel my visit")
    assert world.published(Action)[-1].id == "keep-3"
    await third.stop()
    revisions = [board.revision for board in world.published(Checklist)]
    assert revisions == sorted(set(revisions))


@virtual_time
async def test_without_a_memory_cards_leave_the_screen_and_nothing_breaks():
    world = World()
    first = await world.process()
    await say(first, 1, "cancel my visit")
    world.stations.log.memories[KEY] = b"not what was packed"
    second = await world.process()
    last = world.published(Action)[-1]
    assert (last.id, last.state, last.reason) == ("keep-1", "expire", "call_resumed")
    assert [record.action.revision for record in world.records(ActionRecord)] == [1, 1, 2]
    await second.stop()


@virtual_time
async def test_what_an_earlier_version_remembered_still_counts_the_cards_and_records():
    """It compressed, and packed each card with the names of its fields."""
    world = World()
    await with_a_card(world)
    memory = msgspec.msgpack.decode(world.stations.log.memories[KEY])
    policy = msgspec.msgpack.decode(memory["policy"])
    policy["deck"]["cards"] = [{"action": "keep", "number": 1}]
    policy["checklist"]["ticks"] = {"greet": [{"moment": "checklist.greet", "occurrence": 1}]}
    memory["policy"] = msgspec.msgpack.encode(policy)
    world.stations.log.memories[KEY] = zlib.compress(msgspec.msgpack.encode(memory), 1)
    second = await world.process()
    last = world.published(Action)[-1]
    assert (last.id, last.revision, last.state) == ("keep-1", 2, "expire")
    await say(second, 3, "cancel my other visit")
    assert world.published(Action)[-1].id == "keep-2"
    assert [board.revision for board in world.published(Checklist)][:3] == [1, 2, 3]
    await second.stop()
    assert [record.revision for record in world.records(ConversationRecord)] == [1, 2, 3]


def test_a_memory_that_is_cut_or_spoiled_anywhere_begins_or_goes_on_and_never_fails():
    book = RuleBook(parse_policy(POLICY, source="test.yaml"))
    policy = CallPolicy(book)
    said = Utterance(
        tenant_id="test",
        conversation_id="c1",
        utterance_id="u1",
        revision=1,
        speaker="customer",
        start_ms=0,
        end_ms=900,
        text="cancel my visit",
        is_final=True,
    )
    policy.on_utterance(said, 0.0)
    data = pack(CallMemory(policy=policy.state(), revision=7, customer_id="cust-7"))
    assert not resume(book, data, 1.0).is_new
    for place in range(len(data)):
        assert resume(book, data[:place], 1.0).is_new
        for bit in (0x01, 0x80):
            resume(book, data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :], 1.0)


@virtual_time
async def test_records_go_on_so_that_the_store_takes_them():
    world = World()
    first = await world.process(customer_id="cust-7", roles=("customer",))
    first.assign("ben")
    await first.on_speech("customer", SpeechGap(0, 900, "recogniser_lost", "closed"), Stamps())
    await asyncio.sleep(1)
    second = await world.process(roles=("customer",))
    await second.on_speech("customer", SpeechGap(2000, 2900, "recogniser_lost", "closed"), Stamps())
    await second.stop()
    records = world.records(ConversationRecord)
    assert [record.revision for record in records] == [1, 2, 3, 4]
    assert len({record.started_ms for record in records}) == 1
    assert {record.customer_id for record in records} == {"cust-7"}
    assert [record.revision for record in world.records(GapRecord)] == [1, 2]
    assert [state.agent_id for state in world.published(CallState)] == ["anna", "ben", "ben", "ben"], "transferred once"


@virtual_time
async def test_the_log_and_the_store_are_brought_up_to_each_other():
    world = World()
    first = await world.process()
    await say(first, 1, "both have it")
    await say(first, 2, "the store lost it")
    lost = {
        "utterance_id": "u3",
        "revision": 1,
        "speaker": "customer",
        "start_ms": 6000,
        "end_ms": 7000,
        "text": "cancel my visit",
        "is_final": True,
        "stages_ms": {},
    }
    world.stations.store.known = {"u1": (1, True), "u3": (1, True)}
    world.stations.store.rows = [lost]
    before = len(world.records(UtteranceRecord))
    second = await world.process()
    await asyncio.sleep(1)
    assert [said.utterance_id for said in world.published(Transcript)] == ["u1", "u2", "u3"]
    assert [record.utterance.utterance_id for record in world.records(UtteranceRecord)[before:]] == ["u2", "u3"]
    assert [card.id for card in world.published(Action)] == ["keep-1"], "what was found again is judged"
    await second.stop()


@virtual_time
async def test_a_store_that_is_away_is_told_all_again():
    world = World()
    first = await world.process()
    await say(first, 1, "it may have it")
    world.stations.store.is_away = True
    before = len(world.records(UtteranceRecord))
    second = await world.process()
    await asyncio.sleep(1)
    assert [record.utterance.utterance_id for record in world.records(UtteranceRecord)[before:]] == ["u1"]
    world.stations.store.is_away = False
    await second.stop()


def test_what_is_kept_is_small_and_complete():
    book = RuleBook(parse_policy(POLICY, source="test.yaml"))
    memory = CallMemory(
        policy=resume(book, b"", 0.0).policy.state(),
        revision=7,
        started_ms=1.5,
        customer_id="c",
        language="es",
        turns=(TurnState("u1", 2000, "utterance", 1, b"\0\0\0\0"),),
        annotating=("u2",),
        assist=AssistState(QuestionsState({"u1": b"12345678"}, 1), (Shown("p1", True, "u1"),), ("u2",)),
    )
    again = resume(book, pack(memory), 0.0)
    assert (again.memory, again.is_new) == (memory, False)
    assert resume(book, b"", 0.0).is_new
