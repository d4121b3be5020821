"""What Amazon Connect tells of contacts: media began, an agent took it, it is over. Pure.

Two shapes come to the same door: the event that a contact flow hands to a Lambda function, right after "Start media
streaming", and the contact events of EventBridge. A Lambda function may also send just the fields that matter, as
flow attributes usually hold them. Source: PROTOCOLS b2, Amazon Connect administrator guide "Contact events".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

from server.wire.codec import DECODE_ERRORS, bad_message
from server.wire.errors import BadMessage
from server.wire.ids import ID_PATTERN, AgentId, ExternalId
from server.wire.ingest import LanguageTag

MAX_EVENT_BYTES: Final = 256 * 1024
"""EventBridge's own limit for one event."""

StreamArn = Annotated[
    str, msgspec.Meta(pattern=r"^arn:[a-z-]+:kinesisvideo:[a-z0-9-]+:[0-9]+:stream/.+", max_length=1024)
]

_ID = re.compile(ID_PATTERN)


class Contact(msgspec.Struct, frozen=True, kw_only=True):
    """A contact whose audio is in a stream.

    Attributes:
        contact_id: Connect's id; the conversation's as well.
        stream_arn: Kinesis video stream that holds the audio.
        start_ms: When streaming began, milliseconds since the Unix epoch.
        start_fragment: Fragment number with which it begins, if Connect said so.
        agent_id: Whose call it is, if the flow knows.
        customer_id: Your own name for the customer, if the flow knows.
        language: Expected language, if the flow knows.
    """

    contact_id: ExternalId
    stream_arn: StreamArn
    start_ms: float
    start_fragment: str = ""
    agent_id: ExternalId | None = None
    customer_id: ExternalId | None = None
    language: LanguageTag | None = None


@dataclass(frozen=True, slots=True)
class MediaStarted:
    """Audio of a contact is being streamed."""

    contact: Contact


@dataclass(frozen=True, slots=True)
class AgentConnected:
    """An agent took a contact.

    Attributes:
        contact_id: Which.
        agent_id: Who.
        is_by_arn: The id is the last part of the agent's ARN, as contact events have it, not a name of ours.
    """

    contact_id: str
    agent_id: AgentId
    is_by_arn: bool


@dataclass(frozen=True, slots=True)
class ContactEnded:
    """A contact is over; its last audio may still be on the way."""

    contact_id: str


@dataclass(frozen=True, slots=True)
class Irrelevant:
    """An event that says nothing about audio."""


Event = MediaStarted | AgentConnected | ContactEnded | Irrelevant


class _Audio(msgspec.Struct, frozen=True):
    StreamARN: str
    StartTimestamp: str | int | float
    StartFragmentNumber: str | None = None


class _Customer(msgspec.Struct, frozen=True):
    Audio: _Audio


class _MediaStreams(msgspec.Struct, frozen=True):
    Customer: _Customer


class _ContactData(msgspec.Struct, frozen=True):
    ContactId: ExternalId
    MediaStreams: _MediaStreams
    Attributes: dict[str, Any] = {}
    LanguageCode: str | None = None


class _Details(msgspec.Struct, frozen=True):
    ContactData: _ContactData


class _FlowEvent(msgspec.Struct, frozen=True):
    Details: _Details


class _AgentInfo(msgspec.Struct, frozen=True):
    agentArn: str


class _EventDetail(msgspec.Struct, frozen=True):
    eventType: str
    contactId: ExternalId
    channel: str = "VOICE"
    agentInfo: _AgentInfo | None = None


class _Taken(msgspec.Struct, frozen=True):
    contact_id: ExternalId
    agent_id: ExternalId


class _BridgeEvent(msgspec.Struct, frozen=True):
    detail: _EventDetail


def read_event(body: bytes) -> Event:
    """Read one event.

    Args:
        body: JSON, as a contact flow, EventBridge or a function in between sends it.

    Raises:
        BadMessage: Neither, or a field that is missing or wrong; names the field.
    """
    try:
        tree = msgspec.json.decode(body)
    except DECODE_ERRORS as error:
        raise bad_message(error, what="event") from None
    if not isinstance(tree, dict):
        raise BadMessage("an event is a JSON object")
    try:
        if "Details" in tree:
            return MediaStarted(_contact(msgspec.convert(tree, _FlowEvent).Details.ContactData))
        if "detail" in tree:
            return _bridged(msgspec.convert(tree, _BridgeEvent).detail)
        if "agent_id" in tree and "stream_arn" not in tree:
            taken = msgspec.convert(tree, _Taken)
            return AgentConnected(taken.contact_id, AgentId(taken.agent_id), is_by_arn=False)
        return MediaStarted(msgspec.convert(tree, Contact))
    except msgspec.ValidationError as error:
        raise bad_message(error) from None


def _contact(data: _ContactData) -> Contact:
    audio = data.MediaStreams.Customer.Audio
    fields: dict[str, Any] = {
        "contact_id": data.ContactId,
        "stream_arn": audio.StreamARN,
        "start_ms": _epoch_ms(audio.StartTimestamp),
        "start_fragment": audio.StartFragmentNumber or "",
    }
    for field in ("agent_id", "customer_id"):
        value = _attribute(data.Attributes, field.replace("_", ""))
        if value and _ID.match(value):
            fields[field] = value
    if data.LanguageCode:
        fields["language"] = data.LanguageCode
    return msgspec.convert(fields, Contact)


def _attribute(attributes: dict[str, Any], wanted: str) -> str | None:
    """A flow's own attribute; flows spell them as they like: `AgentId`, `agent_id`."""
    for name, value in attributes.items():
        if name.replace("_", "").lower() == wanted and isinstance(value, str):
            return value
    return None


def _bridged(detail: _EventDetail) -> Event:
    if detail.channel == "VOICE" and detail.eventType in ("DISCONNECTED", "COMPLETED"):
        return ContactEnded(detail.contactId)
    if detail.channel == "VOICE" and detail.eventType == "CONNECTED_TO_AGENT" and detail.agentInfo is not None:
        agent_id = detail.agentInfo.agentArn.rpartition("/")[2]
        if _ID.match(agent_id):
            return AgentConnected(detail.contactId, AgentId(agent_id), is_by_arn=True)
    return Irrelevant()


def _epoch_ms(stamp: str | int | float) -> float:
    """Connect gives milliseconds, as text or number; the API's shapes give ISO 8601."""
    try:
        value = float(stamp)
    except ValueError:
        try:
            return datetime.fromisoformat(str(stamp)).timestamp() * 1000
        except ValueError:
            raise BadMessage("is neither milliseconds nor ISO 8601", field="StartTimestamp") from None
    # Seconds since the epoch have ten digits until the year 2286, milliseconds thirteen.
    return value if value >= 1e11 else value * 1000
