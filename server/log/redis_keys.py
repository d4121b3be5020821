"""How a channel lies in Redis: names of keys, and the one form in which an entry is pushed and kept.

    cueline:t:<tenant>:c:<call>            stream; the id of an entry is `<offset>-0`, fields kind, key, flags, body
    cueline:t:<tenant>:c:<call>/states     hash: newest entry of every state, so that a snapshot is one reply
    cueline:t:<tenant>:c:<call>/meta       hash: epoch, life, last, floor, batch
    cueline:t:<tenant>:c:<call>/memory     what the call's owner has to know to go on in another process
    cueline:t:<tenant>:c:<call>/fence      counter: token of the call's newest owner
    cueline:t:<tenant>:c:<call>/lease      who owns the call, as long as that one renews it
    cueline:channels                       sorted set of channels by the time of their last entry

Agents' channels have `a:<agent>`. Ids contain no slash, and the tenant is quoted, so no two channels share a key.
Source: OPERATIONS d2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast
from urllib.parse import quote, unquote

import msgspec

from server.log.contract import ChannelKey, Entry, Position
from server.wire.codec import json_encoder
from server.wire.ids import TenantId
from server.wire.publication import Kind

PREFIX = "cueline:"
INDEX = "cueline:channels"

_SHORT = {"call": "c", "agent": "a"}
_LONG = {short: long for long, short in _SHORT.items()}
_INTERIM, _OVER = 1, 2


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of one channel."""

    stream: str
    states: str
    meta: str
    fence: str
    lease: str
    memory: str

    @staticmethod
    def of(key: ChannelKey) -> Keys:
        """All of a channel's keys; the stream's name is also the topic that its entries are pushed under."""
        kind, _, name = key.channel.partition(":")
        stream = f"{PREFIX}t:{quote(key.tenant_id, safe='')}:{_SHORT.get(kind, kind)}:{name}"
        parts = ("states", "meta", "fence", "lease", "memory")
        return Keys(stream, *(f"{stream}/{part}" for part in parts))


def channel_of(stream: str) -> ChannelKey:
    """The channel that a stream's name stands for."""
    tenant, kind, name = stream.removeprefix(f"{PREFIX}t:").split(":", 2)
    return ChannelKey(TenantId(unquote(tenant)), f"{_LONG.get(kind, kind)}:{name}")


def flags_of(entry: Entry) -> str:
    """An entry's flags as one digit."""
    return str(entry.is_interim * _INTERIM + entry.is_over * _OVER)


def entry_of_push(data: bytes, now_s: float) -> Entry:
    """An entry from its pushed form: `epoch offset kind flags length-of-key key␣body`."""
    epoch, offset, kind, flags, key_bytes, rest = data.split(b" ", 5)
    end = int(key_bytes)
    return _entry(epoch.decode(), int(offset), kind, rest[:end], flags, rest[end + 1 :], now_s)


def entry_of_stream(epoch: str, item: list[object], now_s: float) -> Entry:
    """An entry from what XRANGE gives: `[id, [kind, …, key, …, flags, …, body, …]]`."""
    identifier, fields = cast("tuple[bytes, list[bytes]]", item)
    _, kind, _, key, _, flags, _, body = fields
    return _entry(epoch, int(identifier.partition(b"-")[0]), kind, key, flags, body, now_s)


def moved(entry: Entry, position: Position) -> Entry:
    """The same publication at another position, its bytes too."""
    if entry.position == position:
        return entry
    envelope = msgspec.json.decode(entry.body, type=dict[str, msgspec.Raw])
    envelope["ep"] = msgspec.Raw(json_encoder.encode(position.epoch))
    envelope["off"] = msgspec.Raw(json_encoder.encode(position.offset))
    return Entry(
        position=position,
        kind=entry.kind,
        key=entry.key,
        is_interim=entry.is_interim,
        body=json_encoder.encode(envelope),
        appended_s=entry.appended_s,
        is_over=entry.is_over,
    )


def _entry(epoch: str, offset: int, kind: bytes, key: bytes, flags: bytes, body: bytes, now_s: float) -> Entry:
    number = int(flags)
    return Entry(
        position=Position(epoch, offset),
        kind=cast(Kind, kind.decode()),
        key=key.decode(),
        is_interim=bool(number & _INTERIM),
        body=body,
        appended_s=now_s,
        is_over=bool(number & _OVER),
    )
