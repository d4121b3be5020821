"""A scripted call for policy tests: who says what when, and what the models claim of it."""

from __future__ import annotations

from typing import Any

from server.policy.loading import parse_policy
from server.policy.rulebook import RuleBook
from server.policy.rules import Policy
from server.policy.runtime import CallPolicy
from server.wire.ids import ConversationId, Speaker, TenantId, UtteranceId
from server.wire.publication import Action, Annotation, Checklist
from server.wire.utterance import Utterance

HEAD = """
tenant: shop
version: 1
graph: guidance
outputs: {intent: {min_score: 0.6}, sentiment: {}, dissatisfied: {}, actions: {}}
"""


def policy_of(text: str) -> Policy:
    return parse_policy(HEAD + text, source="shop.yaml")


def utterance(
    name: str,
    text: str,
    *,
    end_s: float,
    start_s: float | None = None,
    speaker: Speaker = "customer",
    revision: int = 1,
    final: bool = True,
) -> Utterance:
    return Utterance(
        tenant_id=TenantId("shop"),
        conversation_id=ConversationId("c1"),
        utterance_id=UtteranceId(name),
        speaker=speaker,
        start_ms=round(1000 * (max(0.0, end_s - 2.0) if start_s is None else start_s)),
        end_ms=round(1000 * end_s),
        revision=revision,
        text=text,
        is_final=final,
    )


class ScriptedCall:
    """Runs a policy at audio time equal to monotonic time and keeps all it published.

    Annotations of a revision come one by one, or all `together` as from a model that has several heads.
    """

    def __init__(self, policy: Policy, thresholds: dict[str, float] | None = None, *, together: bool = False) -> None:
        self.policy = CallPolicy(RuleBook(policy, thresholds))
        self._together = together
        self.now_s = 0.0
        self.published: list[Action | Checklist] = []
        self._keep(self.policy.on_start(0.0))

    def say(self, spoken: Utterance, **claims: Any) -> list[Action | Checklist]:
        """One revision and its annotations, at the time of its last word; time passes before by the wake-ups."""
        self.wait_until(spoken.end_ms / 1000)
        before = len(self.published)
        self._keep(self.policy.on_utterance(spoken, self.now_s))
        annotations = [
            Annotation(
                utterance_id=spoken.utterance_id,
                revision=spoken.revision,
                output=output,
                value=value,
                score=None,
                model="utterance",
                version=1,
            )
            for output, value in claims.items()
        ]
        for group in [annotations] if self._together else [[annotation] for annotation in annotations]:
            self._keep(self.policy.on_annotations(group, spoken, self.now_s))
        return self.published[before:]

    def wait_until(self, now_s: float) -> list[Action | Checklist]:
        """Let time pass, ticking exactly when asked to."""
        before = len(self.published)
        for _ in range(10_000):
            wakeup_s = self.policy.next_wakeup_s()
            if wakeup_s is None or wakeup_s > now_s:
                break
            self.now_s = max(self.now_s, wakeup_s)
            self._keep(self.policy.on_tick(self.now_s))
        else:
            raise AssertionError("the policy wakes up without end")
        self.now_s = max(self.now_s, now_s)
        return self.published[before:]

    def end(self) -> list[Action | Checklist]:
        before = len(self.published)
        self._keep(self.policy.on_end(self.now_s))
        return self.published[before:]

    @property
    def actions(self) -> list[Action]:
        return [payload for payload in self.published if isinstance(payload, Action)]

    @property
    def checklist(self) -> Checklist:
        return [payload for payload in self.published if isinstance(payload, Checklist)][-1]

    def _keep(self, payloads: tuple[Action | Checklist, ...]) -> None:
        self.published.extend(payloads)


def brief(payloads: list[Action | Checklist]) -> list[str]:
    """`new card-1` for actions, `checklist greet,verify` for checklists."""
    lines = []
    for payload in payloads:
        if isinstance(payload, Action):
            lines.append(f"{payload.state} {payload.id}")
        else:
            lines.append("checklist " + ",".join(item.id for item in payload.items if item.is_done))
    return lines


def near(*labels: str, score: float = 0.7) -> list[dict[str, Any]]:
    """A `moments` value that claims these labels."""
    return [{"label": label, "score": score, "phrase": "as written"} for label in labels]
