"""Events to append, and how a reader folds what it is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from server.log.contract import ChannelKey, Entry, Event
from server.wire.clock import Stamps
from server.wire.ids import TenantId
from server.wire.publication import Action, ActionStateName, Annotation, CallState, Notice, Payload, Transcript

CALL = ChannelKey(TenantId("car_service"), "call:c1")
AGENT = ChannelKey(TenantId("car_service"), "agent:a1")


def event(payload: Payload, stamps: Stamps | None = None) -> Event:
    return Event(payload, stamps or Stamps(t4=1.0))


def transcript(
    utterance_id: str = "u1", revision: int = 1, text: str = "my oil light", *, final: bool = False
) -> Event:
    return event(
        Transcript(
            utterance_id=utterance_id,
            revision=revision,
            speaker="customer",
            start_ms=0,
            end_ms=900,
            text=text,
            is_final=final,
        )
    )


def annotation(utterance_id: str = "u1", revision: int = 1, output: str = "intent", value: str = "oil_change") -> Event:
    return event(
        Annotation(
            utterance_id=utterance_id,
            revision=revision,
            output=output,
            value={"label": value},
            score=0.9,
            model="utterance",
            version=1,
        )
    )


def action(action_id: str = "a1", revision: int = 1, state: ActionStateName = "new") -> Event:
    return event(
        Action(id=action_id, revision=revision, type="hint", title="Offer it", state=state, priority=5, ttl_ms=9000)
    )


def call(state: Any = "started", conversation_id: str = "c1") -> Event:
    return event(CallState(conversation_id=conversation_id, state=state))


def notice(code: str = "shedding") -> Event:
    return event(Notice(code=code, message="Slower than usual."))


def decoded(entry: Entry) -> dict[str, Any]:
    publication: dict[str, Any] = msgspec.json.decode(entry.body)
    return publication


def content(entries: Iterable[Entry]) -> list[tuple[int, str, Any]]:
    """What was said, whatever the epoch is called."""
    return [(entry.position.offset, entry.kind, decoded(entry)["d"]) for entry in entries]


def untimed(entries: Iterable[Entry]) -> list[Entry]:
    """Without the instant at which they were heard: a log may push an entry here before its append returns."""
    return [msgspec.structs.replace(entry, appended_s=0.0) for entry in entries]


def folded(entries: Iterable[Entry]) -> dict[tuple[str, str], Any]:
    """The screen of a reader that applies every entry: newest payload of each state, ended ones gone."""
    screen: dict[tuple[str, str], Any] = {}
    for entry in entries:
        payload = decoded(entry)["d"]
        screen[entry.kind, entry.key] = payload
        if entry.kind == "action" and payload["state"] in ("expire", "retract"):
            del screen[entry.kind, entry.key]
    return screen


def offsets(entries: Iterable[Entry]) -> list[int]:
    return [entry.position.offset for entry in entries]
