"""What a call's next owner judges once more, one final after the other: each is heard after the turn before it. Pure.

said, not judged · judged, not answered ─▶ judge the first ─ done ─▶ judge the next ─▶ …
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from server.wire.ids import UtteranceId
from server.wire.utterance import Utterance


@dataclass(frozen=True, slots=True)
class Once:
    """A final to be judged once more; `is_known`: the policy has it, only its annotations are missing."""

    utterance: Utterance
    is_known: bool


class Again:
    """Those of one call.

    Args:
        judge: Judges one; whether an answer will come.
    """

    def __init__(self, judge: Callable[[Once], bool]) -> None:
        self._judge = judge
        self._waiting: deque[Once] = deque()
        self._asked: UtteranceId | None = None

    def start(self, said: Iterable[Utterance], unjudged: Collection[str], unanswered: Collection[str]) -> None:
        """Judge of what was said, in this order, what the policy or its models and searches are not through with."""
        for utterance in said:
            if utterance.utterance_id in unjudged or utterance.utterance_id in unanswered:
                self._waiting.append(Once(utterance, is_known=utterance.utterance_id not in unjudged))
        self._next()

    def done(self, utterance_id: UtteranceId) -> None:
        """An utterance was answered."""
        if utterance_id == self._asked:
            self._next()

    def _next(self) -> None:
        self._asked = None
        while self._waiting and self._asked is None:
            once = self._waiting.popleft()
            if self._judge(once):
                self._asked = once.utterance.utterance_id
