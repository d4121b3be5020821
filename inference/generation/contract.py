"""What is asked of a text generator, and how it fails.

GenerationError
├── EndpointBusy       429, or the breaker is open; retryable
├── EndpointGone       no connection, 5xx; retryable
├── NoTokenInTime      the first token came too late, or the stream fell silent; retryable
├── StreamCut          the stream ended in the middle; what came before it stands
└── BadAnswer          refused (4xx), or no chat protocol at all
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from inference.errors import InferenceError


class GenerationError(InferenceError):
    """Base of all errors of text generation. Messages never hold a prompt or an answer."""

    code = "generation"
    outcome: ClassVar[str] = "failed"
    """Label of the metric."""


class EndpointBusy(GenerationError):
    """It takes no more now, or we do not ask it."""

    retryable = True
    outcome = "busy"


class EndpointGone(GenerationError):
    """Nothing answers there."""

    retryable = True
    outcome = "gone"


class NoTokenInTime(GenerationError):
    """It answers too slowly to be of use."""

    retryable = True
    outcome = "late"


class StreamCut(GenerationError):
    """It stopped in the middle."""

    outcome = "cut"


class BadAnswer(GenerationError):
    """What came is not the protocol, or says that the request is wrong."""

    outcome = "bad"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        messages: What is constant first: the endpoint keeps the prefix.
        isolation_key: Requests with different keys share no kept prefix; a tenant's.
        max_tokens: Longest answer.
    """

    messages: Sequence[Message]
    isolation_key: str
    max_tokens: int = 200


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost, as the endpoint counts it."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Observer(Protocol):
    """Hears of requests."""

    def first_token(self, duration_s: float) -> None:
        """The first token came."""

    def ended(self, outcome: str, usage: Usage | None) -> None:
        """A request ended: `done`, `cancelled`, or an error's outcome."""

    def hedged(self) -> None:
        """A second request was sent because the first one was slow or failed."""


class Generator(Protocol):
    """Writes text."""

    def stream(self, ask: Ask) -> AsyncGenerator[str, None]:
        """Give the answer's text in pieces. Closing the iterator cancels the request. Raises `GenerationError`."""
