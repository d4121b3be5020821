"""Names of things. Each is a plain string on the wire and a distinct type in the code."""

from typing import Annotated, Literal, NewType

import msgspec

TenantId = NewType("TenantId", str)
ConversationId = NewType("ConversationId", str)
UtteranceId = NewType("UtteranceId", str)
AgentId = NewType("AgentId", str)
ActionId = NewType("ActionId", str)

Speaker = Literal["customer", "agent"]
"""Whose voice it is; also the role of an audio channel."""

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}$(?!\n)"
"""Ids of the outside world: printable, no white space, no slash, at most 128 characters, so that they are
safe as file names, channel names and log fields. Python's `$` also matches before a last newline, hence the look
ahead, which says nothing new to other dialects."""

ExternalId = Annotated[str, msgspec.Meta(pattern=ID_PATTERN)]
"""An id that a client chose; validated at the door."""


def call_channel(conversation_id: str) -> str:
    """Feed channel of one call, as clients name it."""
    return f"call:{conversation_id}"


def agent_channel(agent_id: str) -> str:
    """Feed channel of one agent: which calls are theirs, from the first contact event to the last."""
    return f"agent:{agent_id}"
