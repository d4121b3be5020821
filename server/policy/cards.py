"""The life of the cards of one call: waiting → `new` → `update` → `expire` | `retract`.

A card stands on occurrences of moments. A further occurrence renews the card that is there instead of adding a second
one; when the last occurrence is withdrawn the card is retracted. What the knowledge base finds lives by the same
rules: it waits for its turn, is updated, and leaves. Audio time in milliseconds throughout.
"""

from __future__ import annotations

import msgspec

from server.policy.attention import AttentionBudget, Shown
from server.policy.moments import Change, MomentEvent
from server.policy.rules import ANSWER, ActionRule, Policy
from server.wire.publication import Action, ActionStateName, Citation, Evidence

_EVIDENCE_KEPT = 3


class Ground(msgspec.Struct, array_like=True):
    """One occurrence that a card stands on."""

    moment: str
    occurrence: int
    strength: float
    evidence: Evidence | None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What the knowledge base found.

    Attributes:
        key: Of the question, its utterance where it was spoken; a further finding with the same key replaces what its
            card says.
        title: One line.
        body: The answer.
        cites: Passages behind it.
        evidence: The words that asked; None where the agent typed them.
        action_id: Card that wants passages beside its own words; empty: the finding is a card of its own.
        is_asked: The agent waits for it: shown at once, whatever the attention budget says.
        is_update: It says more about a card that is there; where the card is gone, there is nothing to say.
    """

    key: str
    title: str
    body: str
    cites: tuple[Citation, ...]
    evidence: Evidence | None = None
    action_id: str = ""
    is_asked: bool = False
    is_update: bool = False


class Card(msgspec.Struct, array_like=True):
    """One card. `number` is 0 while it waits to be shown; `since_ms` is the time of the words that called for it.

    `key`, `title`, `body` and `cites` are a finding's; a card of a policy's action says what the action says.
    """

    action: str
    order: int
    since_ms: int
    expires_ms: int
    grounds: list[Ground]
    number: int = 0
    revision: int = 0
    key: str = ""
    title: str = ""
    body: str = ""
    cites: tuple[Citation, ...] = ()

    @property
    def is_shown(self) -> bool:
        """It is, or was, on the screen."""
        return self.number > 0


class DeckState(msgspec.Struct):
    """All a deck remembers."""

    cards: list[Card] = []
    counts: dict[str, int] = {}
    shown: list[Shown] = []
    order: int = 0


class Deck:
    """The cards of one call and what is published of them.

    Args:
        policy: The rules.
        state: To go on from; the deck owns it from here on.
    """

    def __init__(self, policy: Policy, state: DeckState | None = None) -> None:
        self.state = state or DeckState()
        self._rules = {rule.id: rule for rule in (*policy.actions, policy.assist.rule)}
        self._max_answers = policy.assist.max_shown
        self._max_wait_ms = round(policy.attention.max_wait_s * 1000)
        self._budget = AttentionBudget(policy.attention, self.state.shown)
        self._published: list[Action] = []

    @property
    def shown_ids(self) -> frozenset[str]:
        """Ids of the cards that are on the screen."""
        return frozenset(self._id(card) for card in self.state.cards if card.is_shown)

    def apply(self, event: MomentEvent, at_ms: int) -> None:
        """Let one moment event act on the cards."""
        match event.change:
            case Change.BEGAN:
                for rule in self._rules.values():
                    if event.moment in rule.on:
                        self._support(rule, event, at_ms)
                self._resolve(event, at_ms)
            case Change.CONFIRMED:
                self._confirm(event, at_ms)
                self._resolve(event, at_ms)
            case Change.WITHDRAWN:
                self._release(event, at_ms, reason="contradicted")
            case Change.ENDED:
                self._release(event, at_ms, reason="done")

    def advance(self, at_ms: int) -> None:
        """Expire what is no longer useful, drop unseen what waited too long."""
        for card in list(self.state.cards):
            if card.is_shown and card.expires_ms <= at_ms:
                self._leave(card, "expire", "ttl", card.expires_ms)
            elif not card.is_shown and self._stale_ms(card) <= at_ms:
                self.state.cards.remove(card)

    def admit(self, at_ms: int) -> None:
        """Show waiting cards while the budget lasts, highest priority x score first."""
        waiting = [card for card in self.state.cards if not card.is_shown]
        for card in sorted(waiting, key=lambda card: (-self._value(card), card.order)):
            rule = self._rules[card.action]
            if not self._budget.is_free(rule, at_ms):
                continue
            self._budget.spend(rule, at_ms)
            self._show(card, at_ms)

    def find(self, finding: Finding, at_ms: int) -> None:
        """Put what was found on a card.

        On the one that wants it; else on that of the same question; else on an answer on the screen that cites the same
        passage first: it answers both questions from now on. Else on a new card.
        """
        if finding.action_id:
            for card in [card for card in self.state.cards if card.is_shown and self._id(card) == finding.action_id]:
                card.cites = finding.cites
                self._publish(card, "update", at_ms)
            return
        ground = Ground("", 0, 1.0, finding.evidence)
        since_ms = min(finding.evidence.end_ms, at_ms) if finding.evidence is not None else at_ms
        expires_ms = since_ms + round(self._rules[ANSWER].ttl_s * 1000)
        card_or_none = next((card for card in self.state.cards if card.key == finding.key), None)
        if card_or_none is not None:
            card = card_or_none
            card.grounds[-1] = ground
        elif finding.is_update:
            return
        elif (other := self._same_passage(finding)) is not None:
            card = other
            card.key = finding.key
            card.grounds.append(ground)
            card.since_ms, card.expires_ms = max(card.since_ms, since_ms), max(card.expires_ms, expires_ms)
        else:
            self.state.order += 1
            card = Card(ANSWER, self.state.order, since_ms, expires_ms, [ground], key=finding.key)
            self.state.cards.append(card)
        card.title, card.body, card.cites = finding.title, finding.body, finding.cites
        if card.is_shown:
            self._publish(card, "update", at_ms)
        elif finding.is_asked:
            self._show(card, at_ms)

    def _same_passage(self, finding: Finding) -> Card | None:
        """The answer on the screen, to a spoken question as this one is, that cites the same passage first."""
        if finding.is_asked or not finding.cites:
            return None
        for card in self.state.cards:
            is_spoken = card.action == ANSWER and card.is_shown and card.grounds[0].evidence is not None
            if is_spoken and card.cites and card.cites[0].passage_id == finding.cites[0].passage_id:
                return card
        return None

    def withdraw(self, key: str, at_ms: int) -> None:
        """A question turned out to be none, or another: its card goes, unless that answers an earlier one too."""
        for card in [card for card in self.state.cards if key and card.key == key]:
            earlier = card.grounds[-2].evidence if len(card.grounds) > 1 else None
            if earlier is None:
                self._withdraw(card, "contradicted", at_ms)
            else:
                card.grounds.pop()
                card.key = earlier.utterance_id
                self._publish(card, "update", at_ms)

    def receipt(self, action_id: str, event: str, at_ms: int) -> None:
        """The agent used, dismissed or rejected a card: its life is over. Unknown ids and `shown` change nothing."""
        for card in [card for card in self.state.cards if card.is_shown and self._id(card) == action_id]:
            if event != "shown":
                self._leave(card, "expire", event, at_ms)

    def end(self, at_ms: int) -> None:
        """The call is over: expire all that is shown, drop what waits."""
        for card in list(self.state.cards):
            if card.is_shown:
                self._leave(card, "expire", "call_ended", at_ms)
        self.state.cards.clear()

    def taken(self) -> tuple[Action, ...]:
        """What is to be published since the last call of this."""
        published = tuple(self._published)
        self._published.clear()
        return published

    def next_due_ms(self, at_ms: int) -> int | None:
        """Audio time at which `advance` and `admit` should run next, None if nothing waits."""
        due = []
        for card in self.state.cards:
            if card.is_shown:
                due.append(card.expires_ms)
            else:
                free_ms = self._budget.free_ms(self._rules[card.action], at_ms)
                due.append(min(self._stale_ms(card), free_ms))
        return min(due, default=None)

    # Grounds

    def _support(self, rule: ActionRule, event: MomentEvent, at_ms: int) -> None:
        """Give a card one more ground, or make the card."""
        since_ms = min(event.at_ms, at_ms)
        expires_ms = since_ms + round(rule.ttl_s * 1000)
        ground = Ground(event.moment, event.occurrence, event.strength, event.evidence)
        card = next((card for card in self.state.cards if card.action == rule.id), None)
        if card is None:
            self.state.order += 1
            card = Card(rule.id, self.state.order, since_ms, expires_ms, [ground])
            if self._stale_ms(card) > at_ms:  # repaired words of long ago call for nothing any more
                self.state.cards.append(card)
            return
        card.grounds.append(ground)
        card.since_ms, card.expires_ms = max(card.since_ms, since_ms), max(card.expires_ms, expires_ms)
        if card.is_shown:
            self._publish(card, "update", at_ms)

    def _confirm(self, event: MomentEvent, at_ms: int) -> None:
        """A final confirmed an occurrence; the agent is told only if the words behind the card changed."""
        for card in self.state.cards:
            for ground in card.grounds:
                if (ground.moment, ground.occurrence) == (event.moment, event.occurrence):
                    before = ground.evidence.text if ground.evidence else ""
                    ground.evidence, ground.strength = event.evidence, event.strength
                    if card.is_shown and event.evidence is not None and event.evidence.text != before:
                        self._publish(card, "update", at_ms)

    def _release(self, event: MomentEvent, at_ms: int, *, reason: str) -> None:
        """Take a ground away; a card without ground goes."""
        for card in list(self.state.cards):
            left = [g for g in card.grounds if (g.moment, g.occurrence) != (event.moment, event.occurrence)]
            if len(left) == len(card.grounds):
                continue
            if left:
                card.grounds = left
                if card.is_shown:
                    self._publish(card, "update", at_ms)
            else:
                self._withdraw(card, reason, at_ms)

    def _resolve(self, event: MomentEvent, at_ms: int) -> None:
        """`retract_on`: only words that stay said may take a card away, for there is no way back."""
        if event.evidence is not None and not event.evidence.is_final:
            return
        for card in list(self.state.cards):
            if event.moment in self._rules[card.action].retract_on:
                self._withdraw(card, "resolved", at_ms)

    # Publishing

    def _show(self, card: Card, at_ms: int) -> None:
        """Show a card for the first time; of the answers of the knowledge base only the newest few stay."""
        card.number = self.state.counts.get(card.action, 0) + 1
        self.state.counts[card.action] = card.number
        self._publish(card, "new", at_ms)
        if card.action == ANSWER:
            answers = [other for other in self.state.cards if other.action == ANSWER and other.is_shown]
            for oldest in sorted(answers, key=lambda other: other.number)[: -self._max_answers]:
                self._leave(oldest, "expire", "superseded", at_ms)

    def _withdraw(self, card: Card, reason: str, at_ms: int) -> None:
        if card.is_shown:
            self._leave(card, "retract", reason, at_ms)
        else:
            self.state.cards.remove(card)

    def _leave(self, card: Card, state: ActionStateName, reason: str, at_ms: int) -> None:
        self.state.cards.remove(card)
        self._publish(card, state, at_ms, reason)

    def _publish(self, card: Card, state: ActionStateName, at_ms: int, reason: str = "") -> None:
        rule = self._rules[card.action]
        card.revision += 1
        self._published.append(
            Action(
                id=self._id(card),
                revision=card.revision,
                type=rule.type,
                title=card.title or rule.title,
                body=card.body or rule.body,
                state=state,
                priority=rule.priority,
                ttl_ms=max(0, card.expires_ms - at_ms) if state in ("new", "update") else 0,
                reason=reason,
                evidence=tuple(g.evidence for g in card.grounds[-_EVIDENCE_KEPT:] if g.evidence is not None),
                cites=card.cites,
            )
        )

    @staticmethod
    def _id(card: Card) -> str:
        return f"{card.action}-{card.number}"

    def _value(self, card: Card) -> float:
        return self._rules[card.action].priority * max(ground.strength for ground in card.grounds)

    def _stale_ms(self, card: Card) -> int:
        return min(card.since_ms + self._max_wait_ms, card.expires_ms)
