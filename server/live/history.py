"""What is known of a call that begins: it may be new, resumed after a restart, or started again under its id.

The event log has what was published, the store what was acknowledged; after a crash either may be a little ahead, so
both are asked, the further one counts, and the call brings the other one up to it: a source does not send again what
one of them knows. A store that is away only leaves the log's answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from server.log.contract import ChannelKey, Entry, EventLog
from server.store.contract import Store
from server.wire.errors import CuelineError
from server.wire.ids import ConversationId, Speaker, TenantId, call_channel
from server.wire.publication import Action, CallState, Payload, Publication, Transcript

log = logging.getLogger(__name__)

STORE_TIMEOUT_S = 0.5
"""A start waits so long for the store; telephony waits for the answer to `start` meanwhile."""

_decoder = msgspec.json.Decoder(Publication)
_NOTED: dict[str, type[Payload]] = {"transcript": Transcript, "action": Action, "call": CallState}


@dataclass(slots=True)
class History:
    """What was said before.

    Attributes:
        known: Utterance id to (highest revision, is_final).
        covered_ms: End of each side's last final on the audio clock.
        finals: What was said, in the order of the log.
        cards: Cards that are on the screen.
        unstored: Of `finals`, those that the store is not known to have.
        unpublished: Finals that the store has and the log lost.
        state: The newest word on the call itself, None if there is none.
        memory: What the call's last owner left to the next one (`server.live.memory`).
    """

    known: dict[str, tuple[int, bool]] = field(default_factory=dict)
    covered_ms: dict[Speaker, int] = field(default_factory=dict)
    finals: list[Transcript] = field(default_factory=list)
    cards: list[Action] = field(default_factory=list)
    unstored: list[Transcript] = field(default_factory=list)
    unpublished: list[Transcript] = field(default_factory=list)
    state: CallState | None = None
    memory: bytes = b""

    @property
    def is_resumed(self) -> bool:
        """The call began and did not end: it goes on."""
        return self.state is not None and self.state.state == "started"

    def add(self, utterance_id: str, revision: int, is_final: bool) -> None:
        """Note an utterance; the higher revision, and a final, win."""
        known_revision, was_final = self.known.get(utterance_id, (0, False))
        self.known[utterance_id] = (max(revision, known_revision), is_final or was_final)

    def cover(self, speaker: Speaker, until_ms: int) -> None:
        """Note how far a side is known."""
        self.covered_ms[speaker] = max(until_ms, self.covered_ms.get(speaker, 0))

    def take(self, entry: Entry) -> None:
        """Note a publication of the call's snapshot."""
        if entry.kind not in _NOTED:
            return
        payload = msgspec.convert(_decoder.decode(entry.body).d, _NOTED[entry.kind])
        match payload:
            case Transcript():
                self.add(payload.utterance_id, payload.revision, payload.is_final)
                if payload.is_final:
                    self.finals.append(payload)
                    self.cover(payload.speaker, payload.end_ms)
            case Action():
                self.cards.append(payload)
            case CallState():
                self.state = payload


async def read_history(
    event_log: EventLog, store: Store, tenant_id: TenantId, conversation_id: ConversationId, roles: tuple[Speaker, ...]
) -> History:
    """Ask log and store about a call."""
    history = History()
    channel = ChannelKey(tenant_id, call_channel(conversation_id))
    for entry in (await event_log.recover(channel, None)).snapshot:
        history.take(entry)
    history.memory = await event_log.memory(channel)
    stored: dict[str, tuple[int, bool]] = {}
    try:
        async with asyncio.timeout(STORE_TIMEOUT_S):
            stored = await store.revisions(tenant_id, conversation_id)
            for utterance_id, (revision, is_final) in stored.items():
                history.add(utterance_id, revision, is_final)
            if history.is_resumed:
                history.unpublished = await _unpublished(history, store, stored, tenant_id, conversation_id)
            for role in roles:
                history.cover(role, await store.covered_ms(tenant_id, conversation_id, role))
    except (TimeoutError, CuelineError):
        log.warning("the store does not answer; the call resumes from the event log alone")
    if history.is_resumed:
        history.unstored = [said for said in history.finals if stored.get(said.utterance_id) != (said.revision, True)]
    return history


async def _unpublished(
    history: History,
    store: Store,
    stored: Mapping[str, tuple[int, bool]],
    tenant_id: TenantId,
    conversation_id: ConversationId,
) -> list[Transcript]:
    published = {said.utterance_id: said.revision for said in history.finals}
    lost = {name for name, (revision, is_final) in stored.items() if is_final and revision > published.get(name, 0)}
    conversation = await store.conversation(tenant_id, conversation_id) if lost else None
    if conversation is None:
        return []
    said = (msgspec.convert(row, Transcript) for row in conversation["utterances"] if row["utterance_id"] in lost)
    return sorted(said, key=lambda transcript: transcript.end_ms)


async def read_state(event_log: EventLog, channel: ChannelKey) -> CallState | None:
    """The newest `call` publication of a call's channel, None if there is none."""
    recovery = await event_log.recover(channel, None)
    states = [entry for entry in recovery.snapshot if entry.kind == "call"]
    return msgspec.convert(_decoder.decode(states[-1].body).d, CallState) if states else None
