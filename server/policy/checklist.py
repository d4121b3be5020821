"""The checklist of one call: a step ticks when the agent says it, and unticks if it was not said after all."""

from __future__ import annotations

import msgspec

from server.policy.moments import Change, MomentEvent
from server.policy.rules import Policy
from server.wire.publication import Checklist, ChecklistItem


class Tick(msgspec.Struct, array_like=True):
    """An occurrence that ticks a step."""

    moment: str
    occurrence: int
    utterance_id: str
    at_ms: int


class ChecklistState(msgspec.Struct):
    """All a checklist remembers: what ticks each step, and the revision published last."""

    ticks: dict[str, list[Tick]] = {}
    revision: int = 0


class ChecklistBoard:
    """Keeps the checklist of one call.

    Args:
        policy: The rules.
        state: To go on from; the board owns it from here on.
    """

    def __init__(self, policy: Policy, state: ChecklistState | None = None) -> None:
        self.state = state or ChecklistState()
        self._steps = policy.checklist

    def payload(self) -> Checklist | None:
        """The whole list as a new revision; None where the policy has no checklist."""
        if not self._steps:
            return None
        self.state.revision += 1
        items = []
        for step in self._steps:
            ticks = self.state.ticks.get(step.id)
            if ticks:
                first = ticks[0]
                item = ChecklistItem(
                    id=step.id, title=step.title, is_done=True, done_by=first.utterance_id, at_ms=first.at_ms
                )
            else:
                item = ChecklistItem(id=step.id, title=step.title, is_done=False)
            items.append(item)
        return Checklist(revision=self.state.revision, items=tuple(items))

    def apply(self, event: MomentEvent) -> bool:
        """Let one moment event tick or untick; true if the list looks different now."""
        is_changed = False
        for step in self._steps:
            if event.moment not in step.done_on:
                continue
            ticks = self.state.ticks.setdefault(step.id, [])
            if event.change is Change.BEGAN:
                utterance_id = event.evidence.utterance_id if event.evidence else ""
                is_changed = is_changed or not ticks
                ticks.append(Tick(event.moment, event.occurrence, utterance_id, event.at_ms))
            elif event.change is Change.WITHDRAWN and ticks:
                first = ticks[0]
                ticks[:] = [t for t in ticks if (t.moment, t.occurrence) != (event.moment, event.occurrence)]
                is_changed = is_changed or not ticks or ticks[0] is not first
        return is_changed
