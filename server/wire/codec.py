"""One encoder, one typed decoder for each union of client messages; built once.

Decoding errors become `BadMessage` with the path of the wrong field and never with its value, so that no
customer word reaches an error or a log.
"""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar

import msgspec

from inference.choices import one_of
from server.wire import feed, ingest
from server.wire.errors import BadMessage, CuelineError
from server.wire.ingest import ErrorMessage

T = TypeVar("T")

DECODE_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What a decoder raises on bytes that are no message; the last on values nested a thousand deep."""

json_encoder = msgspec.json.Encoder()
msgpack_encoder = msgspec.msgpack.Encoder()

_PATH = re.compile(r" - at `\$(?:\.|)?(?P<path>[^`]*)`$")
_FORMS = {
    "ch": "expected `call:` or `agent:` and an id",
    "language": "expected a language tag such as `en` or `es-MX`",
    **dict.fromkeys(
        ("conversation_id", "agent_id", "customer_id", "tenant_id", "utterance_id"),
        "expected letters, digits and `._:@+-`, the first a letter or digit, at most 128",
    ),
}
"""What a pattern means, by the name of the field: an expression is no explanation."""
_MISSING = re.compile(r"missing required field `(?P<name>[^`]+)`")


class MessageDecoder(Generic[T]):
    """Decodes one frame into a member of the union, or raises `BadMessage` naming the field."""

    def __init__(self, union: Any) -> None:
        self._union = union
        self._json: msgspec.json.Decoder[T] = msgspec.json.Decoder(union)
        self._msgpack: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(union)

    def json(self, frame: str | bytes) -> T:
        """Decode a JSON text frame.

        Raises:
            BadMessage: Not JSON, unknown `type`, or a field that is missing or wrong.
        """
        try:
            return self._json.decode(frame)
        except DECODE_ERRORS as error:
            raise bad_message(error, kind=self._union) from None

    def msgpack(self, frame: bytes) -> T:
        """Decode a MessagePack binary frame; errors as `json`."""
        try:
            return self._msgpack.decode(frame)
        except DECODE_ERRORS as error:
            raise bad_message(error, kind=self._union) from None


def bad_message(error: Exception, what: str = "frame", *, kind: Any = None) -> BadMessage:
    """Turn a decoding error into one that names the field; the wrong value itself is left out.

    Args:
        error: One of `DECODE_ERRORS`.
        what: That was decoded, for the message.
        kind: Type that it was decoded to, so that the message can say which words are allowed; None: it does not.
    """
    if isinstance(error, RecursionError):
        return BadMessage(f"the {what} is nested too deeply")
    if not isinstance(error, msgspec.ValidationError):
        return BadMessage(f"the {what} is not valid" if _is_msgpack(error) else f"the {what} is not valid JSON")
    text = str(error)
    where = _PATH.search(text)
    path = where["path"] if where else ""
    problem = text[: where.start()] if where else text
    missing = _MISSING.search(problem)
    if missing:
        name = missing["name"]
        return BadMessage(f"the field `{name}` is missing", field=f"{path}.{name}" if path else name)
    if problem.startswith(("Invalid value", "Invalid enum value")):
        # msgspec quotes the offending value, and that may be customer words.
        is_type = path == "type"
        problem = (
            "the message type is unknown" if is_type else f"the value is not one of those allowed{one_of(kind, path)}"
        )
    elif "matching regex" in problem:
        problem = _FORMS.get(path.rpartition(".")[2], "the value does not have the form that is expected")
    return BadMessage(problem[:1].lower() + problem[1:], field=path or None)


def _is_msgpack(error: Exception) -> bool:
    return "MessagePack" in str(error)


def error_message(error: BaseException) -> ErrorMessage:
    """What a client is told of an exception: its own words for a `CuelineError`, else only `internal`."""
    if isinstance(error, CuelineError):
        return ErrorMessage(code=error.code, message=error.message, retryable=error.retryable, field=error.field)
    return ErrorMessage(code="internal", message="internal error", retryable=True)


audio_decoder: MessageDecoder[ingest.AudioClientMessage] = MessageDecoder(ingest.AudioClientMessage)
transcript_decoder: MessageDecoder[ingest.TranscriptClientMessage] = MessageDecoder(ingest.TranscriptClientMessage)
feed_decoder: MessageDecoder[feed.ClientMessage] = MessageDecoder(feed.ClientMessage)
