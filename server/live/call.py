"""One call and its only writer.

Everything that happens to a call goes through its mailbox and is worked by one task, so that the order in the log is
the order of the call and no lock is needed. The stages it drives are pure; this shell stamps, publishes and stores.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Iterable, Sequence
from typing import Literal

import msgspec

from inference.errors import InferenceError
from inference.request import Outcome
from server.alarm import Alarm
from server.knowledge import Assistant, Found, Gone, Unanswered
from server.live.again import Again, Once
from server.live.history import History
from server.live.mail import (
    Asked,
    Assigned,
    Done,
    End,
    Flush,
    Given,
    Heard,
    Item,
    Noted,
    Receipt,
    Tick,
    chain,
    drained,
    refuse,
)
from server.live.memory import MAX_UNSAVED_FINALS, CallMemory, pack, resume
from server.live.payloads import transcript_of, utterance_of
from server.live.records import Records
from server.live.reports import Gaps, Shedding
from server.live.stage_times import StageTimes
from server.live.standing import Standing
from server.live.stations import Pinned, Stations
from server.log.contract import ChannelKey, Event
from server.log.leases import Fenced
from server.orchestrator import owner_of
from server.speech.contract import Final, SpeechEvent, SpeechGap
from server.store.contract import ActionRecord, CoverageRecord, UtteranceRecord
from server.transcript.assembler import Assembler
from server.wire.clock import Stamps, stage_durations_ms, wall_ms
from server.wire.errors import CuelineError
from server.wire.ids import AgentId, ConversationId, Speaker, TenantId, UtteranceId, agent_channel, call_channel
from server.wire.ingest import UtteranceIn
from server.wire.publication import Action, Annotation, CallState, Payload
from server.wire.utterance import Origin, Utterance

log = logging.getLogger(__name__)

MAILBOX_ITEMS = 256
"""What a source may have waiting before it is held back; about ten seconds of a busy call."""
TURN_ITEMS = 16
"""What a call works and publishes in one go, before other calls have their turn: all outputs of an utterance and more,
about a millisecond."""
LAST_ANNOTATIONS_S = 2.0
"""What was said last is still annotated before the call ends, but an engine in trouble holds no call open longer."""
KNOWN_WITHIN_S = 0.5
"""A start waits so long for the disk, which takes some milliseconds; one in trouble holds no call up."""


class LiveCall:
    """A call from its first source to its end. Event-loop thread only.

    Args:
        tenant_id: Owner.
        conversation_id: The call.
        agent_id: Whose call it is, None while nobody's.
        language: Expected language.
        pinned: Policy and guide it keeps.
        history: What is known of it: it may be new, or go on here.
        stations: Where its values go.
        customer_id: The telephony side's name for the customer.

    Attributes:
        records: Its own on their way to the store.
        is_left: Another process has it, or will have it: nothing more of it is safe here.
    """

    def __init__(
        self,
        tenant_id: TenantId,
        conversation_id: ConversationId,
        agent_id: AgentId | None,
        language: str,
        pinned: Pinned,
        history: History,
        stations: Stations,
        customer_id: str | None = None,
    ) -> None:
        self.tenant_id = tenant_id
        self.conversation_id = conversation_id
        self._owner = owner_of(tenant_id, conversation_id)
        self._loop = asyncio.get_running_loop()
        self._history = history
        self._resumed = resume(pinned.book, history.memory, self._now_s())
        self._policy, memory = self._resumed.policy, self._resumed.memory
        self._standing = Standing(
            tenant_id, conversation_id, agent_id, customer_id, pinned.policy_name, pinned.languages, language
        )
        self._standing.go_on(memory.customer_id, memory.language, memory.revision, memory.started_ms)
        self._pinned = pinned
        self._assembler = Assembler(tenant_id, conversation_id, history.known)
        self._stations = stations
        self._channel = ChannelKey(tenant_id, call_channel(conversation_id))
        self._mailbox: asyncio.Queue[Item] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._task: asyncio.Task[None] | None = None
        self.is_left = False
        self._alarm = Alarm(self._loop, lambda: self._post(Tick()))
        self._unwritten: list[Event] = []
        self.records = Records(stations.outbox)
        self._unanswered: list[tuple[Awaitable[None] | None, Given | Flush]] = []
        self._gaps = Gaps(tenant_id, conversation_id, memory.num_gaps)
        self._shedding = Shedding()
        self._is_memorable = False
        self._num_unsaved_finals = 0
        self._revisions: dict[str, int] = {}
        self._times = StageTimes(stations.metrics)
        self._num_running = 0
        self._annotating: dict[UtteranceId, None] = {}
        self._again = Again(self._judge_again)
        self._assistant = Assistant(
            stations.library, tenant_id, self._policy.policy, self._post, stations.metrics, stations.writer
        )

    @property
    def agent_id(self) -> AgentId | None:
        """Whose call it is, None while nobody's."""
        return self._standing.agent_id

    @property
    def keyterms(self) -> tuple[str, ...]:
        """What a recogniser should know: the policy's own words first, then the names in its knowledge base."""
        own, base, library = self._pinned.keyterms, self._policy.policy.knowledge, self._stations.library
        if base is None or library is None:
            return own
        return tuple(dict.fromkeys((*own, *library.names(self.tenant_id, base))))

    # -- from the sources ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Publish that it began and take mail."""
        self.records.put(self._standing.record("started"))
        if not self._stations.leases.is_shared:
            # Before anybody is told of it: if its process is killed then, the next one knows of it and ends it.
            await self.records.settle(KNOWN_WITHIN_S)
        await self._announce("started")
        if self._resumed.is_new:
            self._publish_guidance(self._policy.on_start(self._now_s()), Stamps())
        self._bring_up_to_date()
        await self._flush()
        self._alarm.set(self._policy.next_wakeup_s())
        self._task = asyncio.create_task(self._run(), name=f"call-{self.conversation_id}")

    def _bring_up_to_date(self) -> None:
        """Store and publish what only the other one has, and judge what nobody judged."""
        history, self._history = self._history, History()
        for card in history.cards if history.is_resumed else ():
            self._store_action(card)
        self._publish_guidance(self._resumed.abandoned(history.cards), Stamps())
        for said in history.unstored:
            self.records.put(UtteranceRecord(utterance=utterance_of(self.tenant_id, self.conversation_id, said)))
        if history.is_resumed:
            self._go_on_after(history)
        for said in history.unpublished:
            self._publish_utterance(utterance_of(self.tenant_id, self.conversation_id, said), Stamps())

    def _go_on_after(self, history: History) -> None:
        said = [utterance_of(self.tenant_id, self.conversation_id, final) for final in history.finals]
        unjudged, memory = self._resumed.unjudged(history.finals), self._resumed.memory
        known = (utterance for utterance in said if utterance.utterance_id not in unjudged)
        self._stations.orchestrator.go_on_after(self._owner, memory.turns)
        self._assistant.restore(memory.assist, known, history.cards)
        self._again.start(said, unjudged, self._resumed.unanswered)

    def _judge_again(self, once: Once) -> bool:
        self._revisions[once.utterance.utterance_id] = once.utterance.revision
        if once.is_known:
            return self._annotate(once.utterance, Stamps())
        return self._judge(once.utterance, Stamps())

    async def heard(self, speaker: Speaker, event: SpeechEvent, stamps: Stamps) -> None:
        """Take a recogniser's event; waits while the call is far behind."""
        await self._room.wait()
        self._post(Heard(speaker, event, stamps))

    async def given(self, utterance: UtteranceIn, stamps: Stamps) -> Awaitable[None]:
        """Take an utterance; the result is done once it is stored. Waits while the call is far behind."""
        await self._room.wait()
        stored = self._loop.create_future()
        self._post(Given(utterance, stamps, stored))
        return stored

    async def stored(self, roles: tuple[Speaker, ...] = (), covered_ms: int = 0) -> None:
        """Return once everything taken so far is in store or outbox, and that these sides are covered so far."""
        stored = self._loop.create_future()
        covered = tuple(
            CoverageRecord(
                tenant_id=self.tenant_id, conversation_id=self.conversation_id, speaker=role, covered_ms=covered_ms
            )
            for role in roles
        )
        self._post(Flush(stored, covered))
        await stored

    def assign(self, agent_id: AgentId) -> None:
        """An agent took the call."""
        self._post(Assigned(agent_id))

    def receipt(self, action_id: str, event: Literal["shown", "used", "dismissed", "wrong"]) -> None:
        """The agent dealt with a card."""
        self._post(Receipt(action_id, event))

    def ask(self, text: str) -> None:
        """The agent asks the knowledge base."""
        self._post(Asked(text))

    async def end(self, reason: str) -> None:
        """Work what is in the mailbox, then publish the end."""
        if self._task is not None:
            self._post(End(reason))
            await self._task

    async def hand_over(self) -> None:
        """Publish what is in the mailbox and stop without an end: another process goes on with the call."""
        self.is_left = True
        if self._task is not None:
            self._post(End(None))
            await self._task

    @property
    def is_over(self) -> bool:
        """It ended; a new start with its id begins it anew."""
        return self._task is not None and self._task.done()

    def _post(self, item: Item) -> None:
        if self.is_over:
            refuse(item)
            return
        self._mailbox.put_nowait(item)
        if self._mailbox.qsize() >= MAILBOX_ITEMS:
            self._room.clear()

    # -- the writer ---------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._work()
        except Fenced:
            self.is_left = True
            log.warning("the call is another process's by now")
        finally:
            for item in (*(item for _, item in self._unanswered), *drained(self._mailbox)):
                refuse(item)
            self._room.set()
            self._alarm.stop()
            self._stations.orchestrator.cancel(self._owner)
            await self._assistant.stop()

    async def _work(self) -> None:
        while True:
            items = [await self._mailbox.get()]
            while len(items) < TURN_ITEMS and not self._mailbox.empty() and not isinstance(items[-1], End):
                items.append(self._mailbox.get_nowait())
            end = items.pop() if isinstance(items[-1], End) else None
            self._take_all(items)
            if isinstance(end, End):
                await (self._flush() if end.reason is None else self._end(end.reason))
                return
            await self._flush()
            for item in items:
                if isinstance(item, Assigned):
                    await self._assign(item.agent_id)
            if not self._mailbox.empty():
                # Neither a full mailbox nor the log ever waits: without this a flooded call would hold up all others.
                await asyncio.sleep(0)
            if not self._room.is_set() and self._mailbox.qsize() < MAILBOX_ITEMS // 2:
                self._room.set()
            self._alarm.set(self._policy.next_wakeup_s())

    async def _end(self, reason: str) -> None:
        """Close what is open, wait a moment for the last annotations, and say that it is over."""
        for utterance in self._assembler.close():
            self._publish_utterance(utterance, Stamps())
        await self._flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_ANNOTATIONS_S):
                while self._num_running or not self._mailbox.empty():
                    self._take_all([await self._mailbox.get()])
                    await self._flush()
                    await asyncio.sleep(0)
        try:
            self._publish_guidance(self._policy.on_end(self._now_s()), Stamps())
        finally:
            # The other way round than at the start: what the store takes for over is not looked after any more.
            record = self._standing.record("ended")
            await self._announce("ended", reason)
            self.records.put(record)

    def _take_all(self, items: Sequence[Item]) -> None:
        for item in items:
            try:
                self._take(item)
            except Exception:
                # One bad value must not end the call, and the trace names the stage; the words stay out of it.
                log.exception("a stage failed", extra={"item": type(item).__name__})
                if isinstance(item, Given | Flush) and not item.stored.done():
                    item.stored.set_exception(CuelineError("internal error"))

    def _take(self, item: Item) -> None:
        match item:
            case Heard(speaker, SpeechGap() as gap, stamps):
                self._report_gap(speaker, gap, stamps)
            case Heard(speaker, event, stamps):
                origin: Origin = "backfill" if isinstance(event, Final) and event.is_backfill else "speech"
                for utterance in self._assembler.on_speech(speaker, event, self._now_s(), origin=origin):
                    self._publish_utterance(utterance, stamps)
            case Given(given, stamps) as item:
                utterance_or_none = self._assembler.on_utterance(given)
                if utterance_or_none is not None:
                    self._publish_utterance(utterance_or_none, stamps)
                self._unanswered.append((self.records.stored(), item))
            case Noted(utterance, annotations, stamps):
                self._take_annotations(utterance, annotations, stamps)
            case Done(utterance, outcome, error):
                self._num_running -= 1
                if utterance.is_final:
                    self._annotating.pop(utterance.utterance_id, None)
                    self._again.done(utterance.utterance_id)
                self._times.done(utterance)
                if error is not None:
                    log.error("annotation failed", extra={"outcome": outcome.name}, exc_info=error)
            case Receipt(action_id, event):
                self._publish_guidance(self._policy.on_receipt(action_id, event, self._now_s()), Stamps())
            case Asked(text):
                self._assistant.ask(text, Stamps())
            case Found(finding, stamps):
                self._is_memorable = True
                self._publish_guidance(self._policy.on_finding(finding, self._now_s()), stamps)
            case Gone(key):
                self._publish_guidance(self._policy.on_question_gone(key, self._now_s()), Stamps())
            case Unanswered(action):
                self._store_action(action)
            case Tick():
                self._alarm.stop()
                self._publish_guidance(self._policy.on_tick(self._now_s()), Stamps())
            case Flush(covered=covered) as item:
                for record in covered:
                    self.records.put(record)
                self._unanswered.append((self.records.stored(), item))

    def _take_annotations(self, utterance: Utterance, annotations: Sequence[Annotation], stamps: Stamps) -> None:
        """Publish each, then let the policy judge them together: its rules are the dearest work of the loop."""
        if utterance.revision != self._revisions.get(utterance.utterance_id):
            return
        is_interim, notes = not utterance.is_final, [note for note in annotations if note.value is not None]
        if notes:
            self._unwritten += [Event(note, stamps, is_interim=is_interim) for note in notes]
            self._times.annotated(utterance, stamps)
        guidance = self._policy.on_annotations(annotations, utterance, self._now_s())
        self._publish_guidance(guidance, stamps)
        self._assistant.on_annotations(annotations, utterance, stamps)

    def _publish_utterance(self, utterance: Utterance, stamps: Stamps) -> None:
        self._revisions[utterance.utterance_id] = utterance.revision
        stamps = msgspec.structs.replace(stamps, t4=wall_ms())
        stages_ms = stage_durations_ms(stamps)
        self._publish(transcript_of(utterance), stamps)
        self.records.put(UtteranceRecord(utterance=utterance, stages_ms=stages_ms))
        if utterance.is_final:
            self._num_unsaved_finals += 1
            self._times.said(stamps, stages_ms)
        self._judge(utterance, stamps)

    def _judge(self, utterance: Utterance, stamps: Stamps) -> bool:
        """Let models, knowledge base and policy have it; whether the models will answer."""
        is_asked = self._annotate(utterance, stamps)
        self._assistant.on_utterance(utterance, stamps)
        self._publish_guidance(self._policy.on_utterance(utterance, self._now_s()), stamps)
        return is_asked

    def _annotate(self, utterance: Utterance, stamps: Stamps) -> bool:
        if not utterance.text or utterance.origin == "tts":
            return False
        try:
            self._stations.orchestrator.annotate(
                self._pinned.guide, utterance, stamps, self._on_annotations, self._on_done
            )
        except InferenceError as error:
            self._shed(error)
            return False
        self._num_running += 1
        if utterance.is_final:
            self._annotating[utterance.utterance_id] = None
        return True

    def _publish_guidance(self, payloads: Iterable[Payload], stamps: Stamps) -> None:
        for payload in payloads:
            self._is_memorable = True
            if isinstance(payload, Action):
                # T7 of an action is its own: the policy decided just now.
                stamps = msgspec.structs.replace(stamps, t7=wall_ms())
                self._store_action(payload, stamps)
                self._times.acted(payload, stamps)
                self._assistant.on_action(payload, stamps)
            self._publish(payload, stamps)

    def _report_gap(self, speaker: Speaker, gap: SpeechGap, stamps: Stamps) -> None:
        record = self._gaps.report(speaker, gap)
        self._publish(record.gap, stamps)
        if gap.to_ms is not None:
            self._stations.metrics.gap_seconds.labels(gap.state).inc((gap.to_ms - gap.from_ms) / 1000)
        self._is_memorable = True
        self.records.put(record)

    def _shed(self, error: InferenceError) -> None:
        self._stations.metrics.shed.labels("annotation").inc()
        if (notice := self._shedding.notice(self._now_s())) is not None:
            log.warning("no room for annotations", extra={"code": error.code})
            self._publish(notice, Stamps())

    # -- out ----------------------------------------------------------------------------------------------------

    def _on_annotations(self, utterance: Utterance, annotations: Sequence[Annotation], stamps: Stamps) -> None:
        self._post(Noted(utterance, annotations, stamps))

    def _on_done(self, utterance: Utterance, outcome: Outcome, error: BaseException | None) -> None:
        self._post(Done(utterance, outcome, error))

    async def _announce(self, state: str, reason: str = "") -> None:
        payload = self._standing.payload(state, reason)
        self._publish(payload, Stamps())
        self._is_memorable = True
        await self._flush()
        await self._tell_agent(payload)

    async def _assign(self, agent_id: AgentId) -> None:
        """Take the call from one agent's list to another's."""
        if agent_id != self.agent_id:
            await self._tell_agent(self._standing.payload("ended", "transferred"))
            self._standing.agent_id = agent_id
            self.records.put(self._standing.record("started"))
            await self._announce("started")

    async def _tell_agent(self, payload: CallState) -> None:
        if self.agent_id is not None:
            key = ChannelKey(self.tenant_id, agent_channel(self.agent_id))
            await self._stations.log.append(key, (Event(payload, Stamps()),))

    async def _flush(self) -> None:
        """Append what was published since, in order; who waits for it is answered once it is stored, too."""
        if self._unwritten:
            events, self._unwritten = self._unwritten, []
            await self._stations.log.append(self._channel, events, self._memory())
        waiting, self._unanswered = self._unanswered, []
        for stored, item in waiting:
            chain(stored, item.stored)

    def _memory(self) -> bytes:
        """What another process has to know to go on from here; empty as long as that is told by the log itself."""
        if not self._is_memorable and self._num_unsaved_finals < MAX_UNSAVED_FINALS:
            return b""
        self._is_memorable, self._num_unsaved_finals = False, 0
        return pack(
            CallMemory(
                policy=self._policy.state(),
                revision=self._standing.revision,
                started_ms=self._standing.started_ms,
                customer_id=self._standing.customer_id,
                language=self._standing.language,
                num_gaps=self._gaps.num,
                turns=self._stations.orchestrator.turns(self._owner),
                annotating=tuple(self._annotating),
                assist=self._assistant.state(),
            )
        )

    def _publish(self, payload: Payload, stamps: Stamps) -> None:
        self._unwritten.append(Event(payload, stamps))

    def _store_action(self, action: Action, stamps: Stamps = Stamps()) -> None:  # noqa: B008  (frozen)
        owner = {"tenant_id": self.tenant_id, "conversation_id": self.conversation_id}
        self.records.put(ActionRecord(**owner, action=action, stages_ms=stage_durations_ms(stamps)))

    def _now_s(self) -> float:
        return self._loop.time()
