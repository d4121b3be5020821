"""`docs/asyncapi.yaml`, generated from `server/wire`, so that the document cannot say something else than the code.

    python -m server.cli.asyncapi > docs/asyncapi.yaml

Source: AsyncAPI 3.0.0 (https://www.asyncapi.com/docs/reference/specification/v3.0.0).
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, get_args

import msgspec
import yaml

from server.wire import codec, errors, feed, ingest, publication
from server.wire.feed import CloseCode

_REF = "#/components/schemas/{name}"
_FIELD = re.compile(r"^(\w+): (.*)$")

_FEED_IN = get_args(feed.ClientMessage)
_FEED_OUT = (feed.Authenticated, feed.Subscribed, feed.Unsubscribed, feed.Ping, feed.Pong, ingest.ErrorMessage)
_AUDIO_IN = get_args(ingest.AudioClientMessage)
_AUDIO_OUT = (ingest.Started, ingest.AudioAck, ingest.Stopped, ingest.ErrorMessage)
_TRANSCRIPTS_IN = get_args(ingest.TranscriptClientMessage)
_TRANSCRIPTS_OUT = (ingest.Started, ingest.UtteranceAck, ingest.Stopped, ingest.ErrorMessage)

CLOSE_CODES = {
    CloseCode.SHUTDOWN: "The server shuts down or moves; come back, to any process.",
    CloseCode.EXPIRED: "The identity has expired; come back with a new ticket.",
    CloseCode.SLOW: "You read too slowly; come back with your position.",
    CloseCode.INSUFFICIENT_STATE: "The server lost publications on their way to you; come back with your position.",
    CloseCode.NO_PONG: "No pong in time; come back.",
    CloseCode.STATE_INVALIDATED: "The channel began anew; come back, you will get a snapshot.",
    CloseCode.BAD_TOKEN: (
        "No valid ticket in time. Try once more with a fresh one (the server may have restarted between the two "
        "requests), then sign in again."
    ),
    CloseCode.BAD_REQUEST: "The first frame was not `auth`, or too many frames were bad; do not come back.",
    CloseCode.FORBIDDEN_ORIGIN: "Pages of this origin may not connect; do not come back.",
}

_FEED_TEXT = f"""First frame `auth`, then `sub`. Subprotocols `{feed.SUBPROTOCOL_JSON}` (text frames, also without \
any subprotocol) and `{feed.SUBPROTOCOL_MSGPACK}` (the same messages as MessagePack in binary frames). Unknown fields \
and kinds are to be ignored. Publications have no `type`. Their offsets grow within an epoch; some may be missing for \
a slow reader, which loses superseded interims first. Answer `ping` with `pong`."""
_AUDIO_TEXT = "`start`, then binary PCM in real time, then `stop`. After a broken connection send the same `start`."
_TRANSCRIPTS_TEXT = "`start`, then utterances, then `stop`."


def document() -> dict[str, Any]:
    """The whole AsyncAPI document, as plain values."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}

    def channel(name: str, address: str, text: str, received: list[str], sent: list[str]) -> None:
        names = list(dict.fromkeys([*received, *sent]))
        channels[name] = {
            "address": address,
            "description": text,
            "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in names},
        }
        for action, chosen in (("receive", received), ("send", sent)):
            operations[f"{name}.{action}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{message}"} for message in chosen],
            }

    for type_ in dict.fromkeys((*_FEED_IN, *_FEED_OUT, *_AUDIO_IN, *_AUDIO_OUT, *_TRANSCRIPTS_IN, *_TRANSCRIPTS_OUT)):
        messages[type_.__name__] = _message(type_)
    messages["Pcm"] = {
        "summary": "Samples in the order of `roles`, as `start` announced them.",
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "format": "binary"},
    }
    for kind, payload in publication.PAYLOADS.items():
        messages[f"Publication.{kind}"] = _publication(kind, payload)

    publications = [f"Publication.{kind}" for kind in publication.KINDS]
    channel("feed", "/v1/feed", _FEED_TEXT, _names(_FEED_IN), [*_names(_FEED_OUT), *publications])
    channel("audio", "/v1/ingest/audio", _AUDIO_TEXT, [*_names(_AUDIO_IN), "Pcm"], _names(_AUDIO_OUT))
    channel(
        "transcripts",
        "/v1/ingest/transcripts",
        _TRANSCRIPTS_TEXT,
        _names(_TRANSCRIPTS_IN),
        _names(_TRANSCRIPTS_OUT),
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Cueline sockets",
            "version": "1",
            "description": "Generated from `server/wire`; the REST side is at `/schema`.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {"host": "127.0.0.1:8080", "protocol": "ws"},
            "production": {
                "host": "{host}",
                "protocol": "wss",
                "variables": {"host": {"description": "Where Cueline runs."}},
            },
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": _schemas()},
        "x-feed-close-codes": {int(code): text for code, text in CLOSE_CODES.items()},
        "x-feed-limits": _limits(),
        "x-errors": _errors(),
    }


def _names(types: tuple[type, ...]) -> list[str]:
    return [type_.__name__ for type_ in types]


def _message(type_: type) -> dict[str, Any]:
    summary, _ = _docstring(type_)
    return {"name": type_.__struct_config__.tag, "summary": summary, "payload": _ref(type_.__name__)}  # type: ignore[attr-defined]


def _publication(kind: str, payload: type) -> dict[str, Any]:
    summary, _ = _docstring(payload)
    narrowed = {"type": "object", "properties": {"kind": {"const": kind}, "d": _ref(payload.__name__)}}
    return {"name": kind, "summary": summary, "payload": {"allOf": [_ref("Publication"), narrowed]}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF.format(name=name)}


def _schemas() -> dict[str, Any]:
    types = (
        *_FEED_IN,
        *_FEED_OUT,
        *_AUDIO_IN,
        *_AUDIO_OUT,
        *_TRANSCRIPTS_IN,
        *_TRANSCRIPTS_OUT,
        publication.Publication,
        *publication.PAYLOADS.values(),
    )
    _, schemas = msgspec.json.schema_components(dict.fromkeys(types), ref_template=_REF)
    by_name = {type_.__name__: type_ for type_ in _structs()}
    for name, schema in schemas.items():
        text, fields = _docstring(by_name[name])
        schema["description"] = text
        for field, field_text in fields.items():
            schema["properties"].get(field, {}).setdefault("description", field_text)
    for raw in ("tail", "snapshot"):
        entries = {"type": "array", "items": _ref("Publication")}
        was = schemas["Subscribed"]["properties"][raw]
        schemas["Subscribed"]["properties"][raw] = entries | {"description": was["description"]}
    return dict(sorted(schemas.items()))


def _structs() -> list[type]:
    found: list[type] = []
    waiting: list[type] = [msgspec.Struct]
    while waiting:
        children: list[type] = waiting.pop().__subclasses__()
        waiting += children
        found += [child for child in children if child.__module__.startswith("server.wire.")]
    return found


def _docstring(type_: type) -> tuple[str, dict[str, str]]:
    """The docstring's text in one paragraph, and what its `Attributes:` say of each field."""
    text, _, attributes = inspect.cleandoc(type_.__doc__ or "").partition("Attributes:")
    fields: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(attributes).splitlines():
        matched = _FIELD.match(line)
        if matched:
            name = matched[1]
            fields[name] = matched[2]
        elif name:
            fields[name] += f" {line.strip()}"
    return " ".join(text.split()), fields


def _limits() -> dict[str, Any]:
    return {
        "max_frame_in_bytes": feed.MAX_FRAME_IN_BYTES,
        "max_frame_out_bytes": feed.MAX_FRAME_OUT_BYTES,
        "max_subscriptions": feed.MAX_SUBSCRIPTIONS,
        "max_client_messages_per_s": feed.MAX_CLIENT_MESSAGES_PER_S,
        "auth_timeout_s": feed.AUTH_TIMEOUT_S,
        "ping_interval_s": feed.PING_INTERVAL_S,
        "pong_timeout_s": feed.PONG_TIMEOUT_S,
        "queue_max_bytes": feed.QUEUE_MAX_BYTES,
    }


def _errors() -> dict[str, Any]:
    """Every code that a client can be told, with its meaning."""
    internal = codec.error_message(RuntimeError())
    told: dict[str, Any] = {
        internal.code: {"meaning": "Our fault; the log says more.", "retryable": internal.retryable, "http_status": 500}
    }
    for error in vars(errors).values():
        if not (isinstance(error, type) and issubclass(error, errors.CuelineError)):
            continue
        if error is not errors.CuelineError and error is not errors.ConfigError:  # the latter only at start
            meaning = (inspect.getdoc(error) or "").partition("\n")[0]
            told[error.code] = {"meaning": meaning, "retryable": error.retryable, "http_status": error.status}
    return told


class _Dumper(yaml.SafeDumper):
    """Writes equal parts out each time instead of as aliases, which readers of a specification do not expect."""

    def ignore_aliases(self, data: Any) -> bool:
        """See `yaml`."""
        return True


def render() -> str:
    """The document as YAML."""
    head = "# Generated from server/wire: python -m server.cli.asyncapi > docs/asyncapi.yaml\n"
    return head + yaml.dump(document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


if __name__ == "__main__":
    sys.stdout.write(render())
