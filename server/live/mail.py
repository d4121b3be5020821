"""What comes into a call's mailbox: everything that happens to a call, in the order in which it is worked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from inference.request import Outcome
from server.knowledge import Found, Gone, Unanswered
from server.speech.contract import SpeechEvent
from server.store.contract import CoverageRecord
from server.wire.clock import Stamps
from server.wire.errors import Unavailable
from server.wire.ids import AgentId, Speaker
from server.wire.ingest import UtteranceIn
from server.wire.publication import Annotation
from server.wire.utterance import Utterance


@dataclass(frozen=True, slots=True)
class Heard:
    """What the recogniser heard of one side."""

    speaker: Speaker
    event: SpeechEvent
    stamps: Stamps


@dataclass(frozen=True, slots=True)
class Given:
    """An utterance that came as text; `stored` ends once it is safe."""

    utterance: UtteranceIn
    stamps: Stamps
    stored: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Noted:
    """Outputs of the graph for an utterance revision that became ready together."""

    utterance: Utterance
    annotations: Sequence[Annotation]
    stamps: Stamps


@dataclass(frozen=True, slots=True)
class Done:
    """The engine is through with an utterance revision."""

    utterance: Utterance
    outcome: Outcome
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the agent did with a card."""

    action_id: str
    event: Literal["shown", "used", "dismissed", "wrong"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the agent asks the knowledge base."""

    text: str


@dataclass(frozen=True, slots=True)
class Assigned:
    """An agent took the call, or took it over from another."""

    agent_id: AgentId


@dataclass(frozen=True, slots=True)
class Tick:
    """Time for what the policy has waiting."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Tell `stored` once everything before it is safe."""

    stored: asyncio.Future[None]
    covered: tuple[CoverageRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """Nothing follows: the call is over, or, without a reason, another process goes on with it."""

    reason: str | None


Item = Heard | Given | Noted | Done | Receipt | Asked | Assigned | Found | Gone | Unanswered | Tick | Flush | End


def drained(mailbox: asyncio.Queue[Item]) -> Iterator[Item]:
    """What is left in a mailbox."""
    while not mailbox.empty():
        yield mailbox.get_nowait()


def refuse(item: Item) -> None:
    """Nobody works this item any more; who waits for it is told, and sends it again where the call lives."""
    if isinstance(item, Given | Flush) and not item.stored.done():
        item.stored.set_exception(Unavailable("the call goes on in another process"))


def chain(done: Awaitable[None] | None, waiter: asyncio.Future[None]) -> None:
    """Let `waiter` end as `done` ends."""
    if done is None:
        waiter.set_result(None)
        return
    future = asyncio.ensure_future(done)

    def copy(finished: asyncio.Future[None]) -> None:
        if waiter.done():
            return
        if finished.cancelled():
            waiter.cancel()
        elif (error := finished.exception()) is not None:
            waiter.set_exception(error)
        else:
            waiter.set_result(None)

    future.add_done_callback(copy)
