"""What a call has to know to go on in another process, or in another life of this one. Pure.

    policy, standing ──pack──▶ bytes, beside the call's log, in one step with what they led to ──resume──▶ the same

Without it a moment of once per call would happen again, a card on the screen would never leave it, and a new one would
take the id of one that the agent has seen. Contains customer words: treat it so.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import msgspec
from msgspec import structs

from server.knowledge import AssistState
from server.orchestrator import TurnState
from server.policy.rulebook import RuleBook
from server.policy.runtime import CallPolicy
from server.wire.errors import BadRequest
from server.wire.ids import UtteranceId
from server.wire.publication import Action, Transcript

log = logging.getLogger(__name__)

MAX_UNSAVED_FINALS = 16
"""So many finals without guidance may be judged again by the next owner, so that not each one costs a saving: 0.1 to
0.2 ms of the event loop, since a busy server has what a call remembers in no cache."""


class CallMemory(msgspec.Struct, frozen=True, kw_only=True):
    """All of it.

    Attributes:
        policy: `CallPolicy.state`.
        revision: Of the conversation's newest record.
        started_ms: Wall time at which the call began; 0: it begins now.
        customer_id: The telephony side's name for the customer.
        language: Expected language; empty: as its source says.
        num_gaps: Revision of the newest record of a gap.
        turns: What the last turns hand on to the next one's annotations.
        annotating: Finals that the policy has and whose annotations had not come.
        assist: `Assistant.state`.
    """

    policy: bytes
    revision: int = 0
    started_ms: float = 0.0
    customer_id: str | None = None
    language: str = ""
    num_gaps: int = 0
    turns: tuple[TurnState, ...] = ()
    annotating: tuple[str, ...] = ()
    assist: AssistState = AssistState()


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where a call goes on.

    Attributes:
        policy: The call's, at the point where it was.
        memory: The rest.
        is_new: The call begins here, for its policy.
    """

    policy: CallPolicy
    memory: CallMemory
    is_new: bool

    def abandoned(self, cards: Iterable[Action]) -> list[Action]:
        """The end of each card that the log shows and that nobody answers for any more."""
        open_cards = self.policy.open_cards
        return [
            structs.replace(card, revision=card.revision + 1, state="expire", ttl_ms=0, reason="call_resumed")
            for card in cards
            if card.id not in open_cards
        ]

    def unjudged(self, finals: Sequence[Transcript]) -> set[str]:
        """Of what was said, in the order of the log, that which the policy does not know yet."""
        if self.is_new:
            return set()
        newest = takewhile(lambda said: not self.policy.has_judged(UtteranceId(said.utterance_id)), reversed(finals))
        return {said.utterance_id for said in newest}

    @property
    def unanswered(self) -> set[str]:
        """What the policy knows and whose annotations or search had not come to an end."""
        return {*self.memory.annotating, *self.memory.assist.searching}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(CallMemory)

_DEFLATED = b"x"
"""First byte of what an earlier version kept: it compressed. A packed `CallMemory` begins with another."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, zlib.error)


def pack(memory: CallMemory) -> bytes:
    """As it is kept; never empty.

    Not compressed: that would make 4 kB of 9, and take most of a saving's time, which is the event loop's.
    """
    return _encoder.encode(memory)


def unpack(data: bytes) -> CallMemory | None:
    """What `pack` kept; None: nothing, or what cannot be read."""
    try:
        return _decode(data) if data else None
    except _UNREADABLE:
        return None


def resume(book: RuleBook, data: bytes, now_s: float) -> Resumed:
    """Go on with what is kept.

    A call that is over and begins again under its id, one whose policy has another version by now, and one of which an
    earlier version of this program kept its policy otherwise, begin anew; only their numbers go on. What cannot be read
    is told in the log, and the call begins.

    Args:
        book: Rules that hold now.
        data: From `pack`, of this call; empty: nothing is known of it.
        now_s: Monotonic.
    """
    if not data:
        return _begin(book)
    try:
        memory = _decode(data)
        if CallPolicy.can_restore(book, memory.policy):
            return Resumed(CallPolicy.restore(book, memory.policy, now_s), memory, is_new=False)
        memory = structs.replace(memory, started_ms=0.0)
        return Resumed(CallPolicy.begin_after(book, memory.policy), memory, is_new=True)
    except (*_UNREADABLE, BadRequest):
        log.error("what a call remembers cannot be read; its policy begins anew")
        return _begin(book)


def _decode(data: bytes) -> CallMemory:
    return _decoder.decode(zlib.decompress(data) if data.startswith(_DEFLATED) else data)


def _begin(book: RuleBook) -> Resumed:
    return Resumed(CallPolicy(book), CallMemory(policy=b""), is_new=True)
