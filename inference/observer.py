"""What the engine tells about itself: an observer for metrics, and a snapshot of its counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from inference.backends.contract import BackendStatus
from inference.request import Request, RowClass


class EngineObserver(Protocol):
    """Hears what happens. Called on the event loop's thread; must not block."""

    def queue_delay(self, row_class: RowClass, delay_s: float) -> None:
        """A row waited this long for its batch."""

    def batch(self, model: str, rows: int, tokens: int, padded_tokens: int, duration_s: float) -> None:
        """A batch ran: `tokens` of its `padded_tokens` were not padding."""

    def node(self, node: str, duration_s: float, *, is_failed: bool) -> None:
        """A model or operator node ran for a batch."""

    def dropped(self, reason: str) -> None:
        """A request ended without its outputs, or was refused at the door."""

    def skipped(self, reason: str) -> None:
        """A request was answered without a model pass of its own."""


class Follower(Protocol):
    """Looks at what is asked, to ask another version the same afterwards."""

    def follow(self, request: Request) -> Request:
        """Return the request, or a copy whose callbacks tell the follower as well."""


class SilentObserver:
    """Hears nothing; the default."""

    def queue_delay(self, row_class: RowClass, delay_s: float) -> None:
        """Do nothing."""

    def batch(self, model: str, rows: int, tokens: int, padded_tokens: int, duration_s: float) -> None:
        """Do nothing."""

    def node(self, node: str, duration_s: float, *, is_failed: bool) -> None:
        """Do nothing."""

    def dropped(self, reason: str) -> None:
        """Do nothing."""

    def skipped(self, reason: str) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Learned cost of a model version: a batch takes `a_s * padded_tokens + b_s` seconds."""

    a_s: float
    b_s: float


@dataclass(slots=True)
class EngineStats:
    """Counters since the start, and the state now.

    Attributes:
        submitted: Requests taken or refused.
        under_way: Requests taken and not yet answered.
        queued_rows: Rows waiting for a batch.
        rows: Rows that went through a model.
        batches: Model runs.
        tokens: Their tokens without padding.
        padded_tokens: Their tokens with padding.
        dropped: Requests that ended without their outputs, by reason.
        skipped: Requests, or rows, answered without a pass of their own, by reason: `same_text` and `same_words` from
            memory, `same_batch` by a neighbour, `not_wanted` because no output needed the model.
        costs: By `model/version`.
        backends: How versions that run on another machine are doing, by `model/version`.
    """

    submitted: int = 0
    under_way: int = 0
    queued_rows: int = 0
    rows: int = 0
    batches: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    backends: Mapping[str, BackendStatus] = field(default_factory=dict)

    @property
    def padding_ratio(self) -> float:
        """Share of the computed tokens that were padding."""
        return 1.0 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0

    @property
    def passes_saved_ratio(self) -> float:
        """Share of the rows that needed no pass of their own."""
        saved = sum(self.skipped.values())
        return saved / (saved + self.rows) if saved + self.rows else 0.0
