"""What one side has been told, by audio time: a replay says again what was said, and none of it may pass twice. Pure.

final before `settled_ms`                       ─▶ dropped
final across it                                 ─▶ only its new words
interim that knows no more than an earlier one  ─▶ dropped
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from server.speech.contract import Covered, EndOfSpeech, Final, Interim, SpeechEvent, SpeechStarted

_Spoken = TypeVar("_Spoken", Interim, Final)


class Timeline:
    """Filters the events of the recogniser streams of one side that follow each other.

    Args:
        start_ms: Audio time of its first sample.
    """

    def __init__(self, start_ms: int) -> None:
        self.settled_ms = start_ms
        """Everything before it is recognised or was silence."""
        self._told_ms = start_ms
        self._started_ms = start_ms - 1
        self._ended_ms = start_ms - 1

    def jump(self, to_ms: int) -> None:
        """Live goes on there; what lies before is somebody else's to recognise."""
        self.settled_ms = max(self.settled_ms, to_ms)
        self._told_ms = max(self._told_ms, to_ms)

    def take(self, event: SpeechEvent) -> SpeechEvent | None:
        """The event as it may pass, None if nothing of it is new."""
        match event:
            case Final():
                final = _after(event, self.settled_ms)
                if final is None:
                    return None
                self.settled_ms = max(self.settled_ms, final.end_ms)
                self._told_ms = max(self._told_ms, final.end_ms)
                return final
            case Interim():
                if event.end_ms <= self.settled_ms or event.end_ms < self._told_ms:
                    return None
                self._told_ms = event.end_ms
                return _after(event, self.settled_ms)
            case SpeechStarted(at_ms):
                if at_ms <= self._started_ms or at_ms < self.settled_ms:
                    return None
                self._started_ms = at_ms
                return event
            case EndOfSpeech(at_ms, covered_ms):
                if at_ms <= self._ended_ms:
                    return self.take(Covered(covered_ms))
                self._ended_ms = at_ms
                self.settled_ms = max(self.settled_ms, covered_ms)
                return event
            case Covered(covered_ms):
                if covered_ms <= self.settled_ms:
                    return None
                self.settled_ms = covered_ms
                return event
        return event


def _after(spoken: _Spoken, settled_ms: int) -> _Spoken | None:
    """What of it lies behind a time; without word times, all of it if most does."""
    if spoken.start_ms >= settled_ms:
        return spoken
    if spoken.end_ms <= settled_ms:
        return None
    if spoken.words:
        words = tuple(word for word in spoken.words if word.start_ms + word.end_ms > 2 * settled_ms)
        if len(words) == len(spoken.words):
            return spoken
        if not words:
            return None
        return replace(spoken, start_ms=settled_ms, text=" ".join(word.text for word in words), words=words)
    return spoken if spoken.end_ms - settled_ms > settled_ms - spoken.start_ms else None
