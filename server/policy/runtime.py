"""One call's policy: utterances and annotations in, actions and checklists out.

    utterance ─┐                       ┌─▶ cards ─────▶ Action
               ├─▶ moments ─▶ events ──┤
    annotation ┘                       └─▶ checklist ─▶ Checklist

Pure and deterministic. Time comes in as monotonic `now_s`; inside runs audio time, because what counts for the agent
is how long ago it was said. The clock never lags behind the newest word heard, and runs on in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import msgspec

from server.policy.cards import Deck, DeckState, Finding
from server.policy.checklist import ChecklistBoard, ChecklistState
from server.policy.memory import MatcherState
from server.policy.moments import MomentEvent, MomentMatcher
from server.policy.rulebook import RuleBook
from server.wire.errors import BadRequest
from server.wire.ids import UtteranceId
from server.wire.publication import Action, Annotation, Checklist
from server.wire.utterance import Utterance

T = TypeVar("T")

_CLOCK_EPSILON_MS = 1e-6

Guidance = tuple[Action | Checklist, ...]


class CallState(msgspec.Struct):
    """Everything a call's policy remembers, for another process to go on with."""

    policy: str
    at_ms: int | None
    is_ended: bool
    matcher: MatcherState
    deck: DeckState
    checklist: ChecklistState


class _Counts(msgspec.Struct):
    """Of a `DeckState`."""

    counts: dict[str, int] = {}


class _Revision(msgspec.Struct):
    """Of a `ChecklistState`."""

    revision: int = 0


class _Numbers(msgspec.Struct):
    """What of a `CallState` is read whichever version packed it, however it packed the rest."""

    deck: _Counts
    checklist: _Revision


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(CallState)
_numbers_decoder = msgspec.msgpack.Decoder(_Numbers)


class CallPolicy:
    """Applies one pinned policy to one call.

    Hand each utterance revision to `on_utterance` before its annotations go to `on_annotations`; call `on_tick` at
    `next_wakeup_s`. What comes back is to be published in that order. Not thread-safe; one owner.

    Args:
        book: Of the policy that is pinned for the call.
    """

    def __init__(self, book: RuleBook) -> None:
        self.policy = book.policy
        self._matcher = MomentMatcher(book)
        self._deck = Deck(self.policy)
        self._checklist = ChecklistBoard(self.policy)
        self._offset_s: float | None = None
        self._is_ended = False

    def on_start(self, now_s: float) -> Guidance:
        """The call began: the checklist with nothing done."""
        del now_s  # audio time is known from the first utterance on
        checklist = self._checklist.payload()
        return () if checklist is None else (checklist,)

    def on_utterance(self, utterance: Utterance, now_s: float) -> Guidance:
        """Take in one utterance revision."""
        if self._is_ended:
            return ()
        offset_s = utterance.end_ms / 1000 - now_s
        self._offset_s = offset_s if self._offset_s is None else max(self._offset_s, offset_s)
        at_ms = self._audio_ms(now_s)
        self._deck.advance(at_ms)
        return self._after(self._matcher.observe(utterance), at_ms)

    def on_annotations(self, annotations: Sequence[Annotation], utterance: Utterance, now_s: float) -> Guidance:
        """Take in outputs of the graph for an utterance revision handed to `on_utterance` before.

        Args:
            annotations: Those that are ready; judged together, for the same guidance as one by one with less work.
            utterance: The utterance they speak of; an annotation of a different utterance is refused.
            now_s: Monotonic time.

        Raises:
            BadRequest: Annotations and utterance do not belong together.
        """
        if any(annotation.utterance_id != utterance.utterance_id for annotation in annotations):
            raise BadRequest("the annotation is of another utterance", field="utterance_id")
        if self._is_ended or self._offset_s is None:
            return ()
        at_ms = self._audio_ms(now_s)
        self._deck.advance(at_ms)
        return self._after(self._matcher.annotate(annotations), at_ms)

    def on_tick(self, now_s: float) -> Guidance:
        """Let time pass: absences, expiry, cards whose turn has come."""
        if self._is_ended or self._offset_s is None:
            return ()
        at_ms = self._audio_ms(now_s)
        self._deck.advance(at_ms)
        return self._after((), at_ms)

    def on_receipt(
        self, action_id: str, event: Literal["shown", "used", "dismissed", "wrong"], now_s: float
    ) -> Guidance:
        """The agent dealt with a card: it expires, with the receipt as the reason."""
        if self._is_ended or self._offset_s is None:
            return ()
        at_ms = self._audio_ms(now_s)
        self._deck.advance(at_ms)
        self._deck.receipt(action_id, event, at_ms)
        return self._after((), at_ms)

    def on_finding(self, finding: Finding, now_s: float) -> Guidance:
        """The knowledge base found something: it becomes a card, or part of one, when its turn has come."""
        if self._is_ended:
            return ()
        if self._offset_s is None:  # the agent asked before anybody spoke
            self._offset_s = -now_s
        at_ms = self._audio_ms(now_s)
        self._deck.advance(at_ms)
        self._deck.find(finding, at_ms)
        return self._after((), at_ms)

    def on_question_gone(self, key: str, now_s: float) -> Guidance:
        """What was taken for a question is none any more: its card is taken back."""
        if self._is_ended or self._offset_s is None:
            return ()
        at_ms = self._audio_ms(now_s)
        self._deck.advance(at_ms)
        self._deck.withdraw(key, at_ms)
        return self._after((), at_ms)

    def on_end(self, now_s: float) -> Guidance:
        """The call is over: every card on the screen expires, and nothing happens any more."""
        if self._is_ended:
            return ()
        self._is_ended = True
        if self._offset_s is None:
            return ()
        at_ms = self._audio_ms(now_s)
        self._deck.advance(at_ms)
        self._deck.end(at_ms)
        return self._deck.taken()

    def next_wakeup_s(self) -> float | None:
        """Monotonic time at which `on_tick` should be called, None if nothing waits. Ask again after every call."""
        if self._is_ended or self._offset_s is None:
            return None
        due = [self._matcher.next_due_ms(), self._deck.next_due_ms(self._last_ms)]
        due_ms = min((ms for ms in due if ms is not None), default=None)
        return None if due_ms is None else due_ms / 1000 - self._offset_s

    # Handing a call over

    def state(self) -> bytes:
        """All that is remembered. Contains customer words: treat it so."""
        state = CallState(
            policy=self.policy.name,
            at_ms=None if self._offset_s is None else self._last_ms,
            is_ended=self._is_ended,
            matcher=self._matcher.state,
            deck=self._deck.state,
            checklist=self._checklist.state,
        )
        return _encoder.encode(state)

    @classmethod
    def restore(cls, book: RuleBook, state: bytes, now_s: float) -> CallPolicy:
        """Go on where another process stopped.

        Args:
            book: Of the same version as before.
            state: From `state`.
            now_s: This process's monotonic time; audio time goes on from here.

        Raises:
            BadRequest: The state is of another policy, or is no state.
        """
        known = _decode(_decoder, state)
        if known.policy != book.policy.name:
            raise BadRequest(f"the state is of policy {known.policy}", field="policy")
        call = cls(book)
        call._matcher = MomentMatcher(book, known.matcher)
        call._deck = Deck(book.policy, known.deck)
        call._checklist = ChecklistBoard(book.policy, known.checklist)
        call._is_ended = known.is_ended
        if known.at_ms is not None:
            call._offset_s = known.at_ms / 1000 - now_s
            call._last_ms = known.at_ms
        return call

    @classmethod
    def begin_after(cls, book: RuleBook, state: bytes) -> CallPolicy:
        """Begin anew where another policy, another version, or an earlier call of the same id, left off.

        Only numbers and revisions go on, so that no id of a card is used a second time.

        Raises:
            BadRequest: It is no state.
        """
        known = _decode(_numbers_decoder, state)
        call = cls(book)
        call._deck = Deck(book.policy, DeckState(counts=known.deck.counts))
        call._checklist = ChecklistBoard(book.policy, ChecklistState(revision=known.checklist.revision))
        return call

    @staticmethod
    def can_restore(book: RuleBook, state: bytes) -> bool:
        """Whether a state is of this policy, of a call that is not over, and packed as this version does."""
        try:
            known = _decode(_decoder, state)
        except BadRequest:
            return False
        return known.policy == book.policy.name and not known.is_ended

    @property
    def open_cards(self) -> frozenset[str]:
        """Ids of the cards that are on the screen."""
        return self._deck.shown_ids

    def has_judged(self, utterance_id: UtteranceId) -> bool:
        """Whether the final of an utterance was handed in; forgotten after a few dozen further utterances."""
        turn = self._matcher.state.turns.get(utterance_id)
        return turn is not None and (turn.is_judged or any(view.is_final for view in turn.views))

    # Inside

    _last_ms: int = 0

    def _audio_ms(self, now_s: float) -> int:
        """Audio time now; it never steps back."""
        offset_s = self._offset_s if self._offset_s is not None else -now_s
        self._last_ms = max(self._last_ms, int((now_s + offset_s) * 1000 + _CLOCK_EPSILON_MS))
        return self._last_ms

    def _after(self, events: tuple[MomentEvent, ...], at_ms: int) -> Guidance:
        """Let events act, then the time; the checklist comes last, once."""
        is_ticked = False
        for event in (*events, *self._matcher.tick(at_ms)):
            self._deck.apply(event, at_ms)
            is_ticked = self._checklist.apply(event) or is_ticked
        self._deck.admit(at_ms)
        checklist = self._checklist.payload() if is_ticked else None
        return (*self._deck.taken(), *((checklist,) if checklist is not None else ()))


def _decode(decoder: msgspec.msgpack.Decoder[T], state: bytes) -> T:
    try:
        return decoder.decode(state)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequest("not the state of a call's policy", field="state") from None
