"""A circuit breaker: whether to send the next call to a dependency. Pure: no thread, no clock of its own.

    closed ──failures──▶ open ──time──▶ half-open ──successes──▶ closed
                           ▲────────────failure, for twice as long┘

Two rules open it. The share of failed calls in a sliding window says that a dependency is ill; calls that it did not
answer at all, one after another, say that it is gone, and at a few rows a second no window would fill in time.

Source: the states are Nygard's ("Release It!", 2007); the window and the trial share follow resilience4j.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto


class State(Enum):
    """What happens to calls."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Verdict(Enum):
    """How a call ended."""

    DONE = auto()
    """It was answered."""
    FAILED = auto()
    """It was answered with an error that may be its own fault."""
    GONE = auto()
    """It was not answered: no connection, no answer in time, or word that nothing is there to answer it."""
    UNDECIDED = auto()
    """It says nothing about the dependency: it was not made after all, or its own fault is proven."""


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When it opens and closes.

    Attributes:
        window_s: How far back calls count.
        min_calls: Calls in the window below which their failed share says nothing.
        max_failed_ratio: Share of failed calls that opens it.
        max_gone_in_row: Unanswered calls one after another that open it, however few there were.
        open_s: How long it stays open at first; doubles each time that a trial fails.
        max_open_s: Longest it stays open.
        trial_ratio: Share of the calls that are sent while half-open.
        trial_interval_s: While half-open, a trial is due after this even if calls are few.
        num_trials: Successful trials in a row that close it.
    """

    window_s: float = 20.0
    min_calls: int = 50
    max_failed_ratio: float = 0.2
    max_gone_in_row: int = 3
    open_s: float = 5.0
    max_open_s: float = 60.0
    trial_ratio: float = 0.05
    trial_interval_s: float = 1.0
    num_trials: int = 3


class Breaker:
    """Decides call by call. Not thread-safe: the caller guards it.

    Attributes:
        state: As of the last call.
    """

    __slots__ = (
        "_gone_in_row", "_is_trying", "_open_s", "_opened_s", "_period", "_seconds", "_settings", "_trials",
        "_tried_s", "_untried", "state",
    )  # fmt: skip

    def __init__(self, settings: BreakerSettings | None = None) -> None:
        self._settings = settings or BreakerSettings()
        self.state = State.CLOSED
        self._period = 0
        self._seconds: deque[list[int]] = deque()  # [second, calls, failed]
        self._gone_in_row = 0
        self._open_s = self._settings.open_s
        self._opened_s = 0.0
        self._is_trying = False
        self._tried_s = 0.0
        self._untried = 0
        self._trials = 0

    def admit(self, now_s: float) -> int | None:
        """Decide about a call.

        Args:
            now_s: Monotonic seconds.

        Returns:
            A ticket for `record`; None: do not make the call.
        """
        settings = self._settings
        if self.state is State.OPEN:
            if now_s - self._opened_s < self._open_s:
                return None
            self._enter(State.HALF_OPEN)
            self._untried, self._trials, self._is_trying = 0, 0, False
            self._tried_s = now_s - settings.trial_interval_s
        if self.state is State.HALF_OPEN:
            self._untried += 1
            is_due = self._untried * settings.trial_ratio >= 1.0 or now_s - self._tried_s >= settings.trial_interval_s
            if self._is_trying or not is_due:
                return None
            self._is_trying, self._tried_s, self._untried = True, now_s, 0
        return self._period

    def record(self, ticket: int, now_s: float, verdict: Verdict) -> None:
        """Take note of how a call ended; of calls admitted before the last change of state nothing is learnt.

        Args:
            ticket: From `admit`.
            now_s: Monotonic seconds.
            verdict: How it ended.
        """
        if ticket != self._period:
            return
        self._is_trying = False
        if verdict is Verdict.UNDECIDED:
            return
        if self.state is State.HALF_OPEN:
            self._judge_trial(now_s, verdict)
            return
        self._gone_in_row = self._gone_in_row + 1 if verdict is Verdict.GONE else 0
        if self._gone_in_row >= self._settings.max_gone_in_row or self._is_ill(now_s, verdict):
            self.open(now_s)

    def open(self, now_s: float) -> None:
        """Open it now, whatever was recorded."""
        self._enter(State.OPEN)
        self._opened_s = now_s

    def _judge_trial(self, now_s: float, verdict: Verdict) -> None:
        if verdict is not Verdict.DONE:
            self._open_s = min(self._open_s * 2.0, self._settings.max_open_s)
            self.open(now_s)
            return
        self._trials += 1
        if self._trials >= self._settings.num_trials:
            self._enter(State.CLOSED)
            self._open_s = self._settings.open_s

    def _is_ill(self, now_s: float, verdict: Verdict) -> bool:
        second = int(now_s)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        self._seconds[-1][1] += 1
        self._seconds[-1][2] += verdict is not Verdict.DONE
        while self._seconds[0][0] <= second - self._settings.window_s:
            self._seconds.popleft()
        calls = sum(bucket[1] for bucket in self._seconds)
        failed = sum(bucket[2] for bucket in self._seconds)
        return calls >= self._settings.min_calls and failed >= self._settings.max_failed_ratio * calls

    def _enter(self, state: State) -> None:
        self.state = state
        self._period += 1
        self._gone_in_row = 0
        self._seconds.clear()
