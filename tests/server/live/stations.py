"""Stations that live calls are tested on: real assembler and policy, a log and outbox in memory, a scripted engine."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from inference.errors import OverloadedError
from inference.request import Outcome
from server.live.stations import Pinned, Stations
from server.log.channel import encoded
from server.log.contract import Position, Recovery
from server.log.snapshot import compacted
from server.metrics import Metrics
from server.policy.loading import parse_policy
from server.policy.rulebook import RuleBook
from server.wire.errors import NotFound, Unavailable
from server.wire.publication import Annotation

POLICY = """
tenant: test
version: 1
graph: guidance
outputs: {intent: {}}
moments:
  - {id: cancels, speaker: customer, any: [{lexical: cancel my}], once: true}
actions:
  - {id: keep, on: cancels, type: hint, title: Offer to move it, priority: 5, ttl_s: 30}
attention: {max_cards_per_min: 4}
"""


class MemoryLog:
    """Appends, counts and remembers; enough of an `EventLog` for a call."""

    def __init__(self):
        self.events = defaultdict(list)
        self.memories = {}

    async def append(self, key, events, memory=b""):
        self.events[key].extend(events)
        if memory:
            self.memories[key] = memory
        return ()

    async def memory(self, key):
        return self.memories.get(key, b"")

    async def recover(self, key, after):
        position = Position("e", len(self.events[key]))
        entries = encoded(key.channel, Position("e", 0), self.events[key], 0.0, 0.0)
        return Recovery(position, False, compacted(entries), ())

    def payloads(self, channel, kind=None):
        found = [event.payload for key, events in self.events.items() if key.channel == channel for event in events]
        return [payload for payload in found if kind is None or isinstance(payload, kind)]


class MemoryOutbox:
    """Stores at once, when told to, or not at all."""

    def __init__(self):
        self.records = []
        self.holding = False
        self.is_broken = False
        self.waiting = []

    def put(self, record):
        self.records.append(record)
        future = asyncio.get_running_loop().create_future()
        if self.is_broken:
            future.set_exception(Unavailable("the disk fails"))
        elif self.holding:
            self.waiting.append(future)
        else:
            future.set_result(None)
        return future

    def release(self):
        self.holding = False
        for future in self.waiting:
            future.set_result(None)


class MemoryStore:
    """Knows what it was given; may be away."""

    def __init__(self):
        self.known = {}
        self.covered = {}
        self.rows = []
        self.unended_calls = []
        self.is_away = False

    async def revisions(self, tenant_id, conversation_id):
        if self.is_away:
            await asyncio.Event().wait()
        return self.known

    async def conversation(self, *_):
        return {"utterances": self.rows}

    async def unended(self, *_):
        return self.unended_calls

    async def agent_of(self, *_):
        return False, None

    async def has_action(self, *_):
        return False

    async def covered_ms(self, tenant_id, conversation_id, speaker):
        return self.covered.get(speaker, 0)


class ScriptedOrchestrator:
    """Answers each utterance with an intent after `delay_s`, or refuses."""

    def __init__(self):
        self.delay_s = 0.01
        self.is_overloaded = False
        self.asked = []
        self.cancelled = []
        self.last_turns = {}
        self.fails = False

    def annotate(self, guide, utterance, stamps, on_annotations, on_done):
        if self.is_overloaded:
            raise OverloadedError("no room")
        self.asked.append(utterance)
        asyncio.get_running_loop().call_later(self.delay_s, self._answer, utterance, stamps, on_annotations, on_done)

    def _answer(self, utterance, stamps, on_annotations, on_done):
        if self.fails:
            on_done(utterance, Outcome.FAILED, RuntimeError("the model failed"))
            return
        annotation = Annotation(
            utterance_id=utterance.utterance_id,
            revision=utterance.revision,
            output="intent",
            value={"label": "cancel", "score": 0.9},
            score=0.9,
            model="utterance",
            version=1,
        )
        on_annotations(utterance, [annotation], stamps)
        on_done(utterance, Outcome.DONE, None)

    def turns(self, owner):
        return self.last_turns.get(owner, ())

    def go_on_after(self, owner, turns):
        self.last_turns[owner] = tuple(turns)

    def cancel(self, owner):
        self.cancelled.append(owner)


class OnePolicy:
    """Every tenant called `test` has the same policy."""

    def __init__(self, text=POLICY):
        self._text = text

    def pin(self, tenant_id):
        if tenant_id != "test":
            raise NotFound("no such tenant", field="tenant_id")
        policy = parse_policy(self._text, source="test.yaml")
        return Pinned(RuleBook(policy), policy.name, policy.languages, None, policy.keyterms)


def make_stations():
    return Stations(
        log=MemoryLog(),
        outbox=MemoryOutbox(),
        store=MemoryStore(),
        orchestrator=ScriptedOrchestrator(),
        policies=OnePolicy(),
        metrics=Metrics(),
    )
