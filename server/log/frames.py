"""What stands in a channel's file: marks that anybody may read, and entries that the tenant's key seals. Pure.

    Opened │ Batch(Remembered? Stored*) │ Batch … │ Complete │ Batch … │ Opened …       each in a frame of its own

    payloads ──outline──▶ epoch, floor, last offset, certainty ──contents, with the batches' data keys──▶ entries

Where a channel stands is known without a key, so that a call goes on behind what is there while a key service is away.
Versions before there were batches wrote entries one by one and in the clear; those are read as well.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from server.keys.keyring import SEALED, DataCipher, header_of
from server.log.contract import ChannelKey, Entry, Position
from server.store.framing import frame
from server.wire.publication import Kind

MAX_BATCH_BYTES = 256 * 1024
"""Bodies that one seal covers; what waited for a disk that was away is many batches, and damage costs one of them."""


class Opened(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """Entries from here on belong to `epoch`; entries up to `floor` may be incomplete. The last one counts for all.

    `is_sealed` of a file's first one says that nothing in the file is in the clear.
    """

    epoch: str
    floor: int
    is_sealed: bool = False


class Complete(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """Everything up to `offset` is here and no more had been shown to anybody."""

    generation: str
    offset: int


class Stored(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """One entry. `appended_ms` is wall time; the monotonic clock of another run means nothing."""

    offset: int
    epoch: str
    kind: Kind
    key: str
    is_interim: bool
    is_over: bool
    appended_ms: float
    body: bytes


class Remembered(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """What the writer has to know to go on after the entries that follow; the last one counts."""

    memory: bytes


class Batch(msgspec.Struct, frozen=True, array_like=True, tag="b"):
    """Entries that were written together, and what the writer remembers with them: all of it is here or nothing.

    `value` is a list of `Remembered` and `Stored`, sealed for this channel and these offsets.
    """

    first: int
    last: int
    value: bytes


Item = Entry | Stored | Remembered | Opened | Complete | Batch
"""What can be written into a channel's file."""

_encoder = msgspec.msgpack.Encoder()
_frame_decoder: msgspec.msgpack.Decoder[Opened | Stored | Remembered | Complete | Batch] = msgspec.msgpack.Decoder(
    Opened | Stored | Remembered | Complete | Batch
)
_batch_decoder: msgspec.msgpack.Decoder[list[Stored | Remembered]] = msgspec.msgpack.Decoder(list[Stored | Remembered])


@dataclass(frozen=True, slots=True)
class Outline:
    """What a channel's file says without a key.

    Attributes:
        epoch: Its epoch.
        floor: Offset after which the entries are complete.
        last: Offset of the newest entry.
        is_certain: Whether a position of this epoch can be honoured.
        skipped_bytes: Damage that was stepped over.
        items: Entries, sealed or not.
    """

    epoch: str
    floor: int
    last: int
    is_certain: bool
    skipped_bytes: int
    items: tuple[Batch | Stored | Remembered, ...]

    def sealed(self) -> dict[bytes, bytes]:
        """Something sealed by each data key that is needed to read, by what stands before all that it sealed."""
        return {
            header_of(item.value): item.value for item in self.items if isinstance(item, Batch) and _is_sealed(item)
        }


@dataclass(frozen=True, slots=True)
class Contents:
    """What a channel's file holds.

    Attributes:
        floor: Offset after which the entries are complete.
        entries: Ascending offsets.
        skipped_bytes: Damage that was stepped over.
        memory: What the last writer left to the next one.
    """

    floor: int
    entries: tuple[Entry, ...]
    skipped_bytes: int
    memory: bytes = b""

    def between(self, after: int, upto: int) -> tuple[Entry, ...]:
        """Entries with offsets above `after` and at most `upto`."""
        start = bisect_right(self.entries, after, key=_offset)
        return self.entries[start : bisect_right(self.entries, upto, key=_offset)]


def framed(key: ChannelKey, items: Iterable[Item], cipher: DataCipher | None) -> bytes:
    """The bytes to append for marks and entries, in their order; `cipher` None: in the clear."""
    frames: list[bytes] = []
    run: list[Stored | Remembered] = []
    size_bytes = 0
    wall_s = time.time() - time.monotonic()
    for item in items:
        match item:
            case Entry():
                run.append(_stored(item, wall_s))
                size_bytes += len(item.body)
            case Stored():
                run.append(item)
                size_bytes += len(item.body)
            case Remembered():
                run.append(item)
                continue  # it is to stand in one batch with what follows
            case _:
                frames += _batch(key, run, cipher)
                frames.append(frame(_encoder.encode(item)))
                run, size_bytes = [], 0
        if size_bytes >= MAX_BATCH_BYTES:
            frames += _batch(key, run, cipher)
            run, size_bytes = [], 0
    frames += _batch(key, run, cipher)
    return b"".join(frames)


def outline(payloads: Iterable[bytes], skipped_bytes: int, generation: str) -> Outline:
    """Where a channel stands.

    Args:
        payloads: Of the whole frames of its file, in order.
        skipped_bytes: Damage between them.
        generation: Present one; what was certain in another one is not.
    """
    epoch, floor, last, complete = "", 0, 0, None
    items: list[Batch | Stored | Remembered] = []
    for payload in payloads:
        try:
            item = _frame_decoder.decode(payload)
            if isinstance(item, Batch) and _is_sealed(item):
                header_of(item.value)
        except (ValueError, msgspec.DecodeError):
            skipped_bytes += len(payload)
            continue
        complete = None
        match item:
            case Opened():
                epoch, floor = item.epoch, max(floor, item.floor)
                continue
            case Complete():
                complete = item
                continue
            case Batch(first=first, last=upto):
                floor, last = _reached(floor, last, first, upto)
            case Stored(offset=offset):
                floor, last = _reached(floor, last, offset, offset)
        items.append(item)
    last = max(floor, last)
    is_certain = bool(epoch) and not skipped_bytes and complete == Complete(generation, last)
    return Outline(epoch, floor, last, is_certain, skipped_bytes, tuple(items))


def contents(key: ChannelKey, outlined: Outline, ciphers: Mapping[bytes, DataCipher]) -> Contents:
    """Open what stands in a file. What does not open was changed by somebody, and is damage like any other.

    Args:
        key: The channel.
        outlined: Its file.
        ciphers: The data keys that `Outline.sealed` asks for.
    """
    floor, last, memory, skipped_bytes = outlined.floor, 0, b"", outlined.skipped_bytes
    stored: list[Stored] = []
    for item in outlined.items:
        run: Sequence[Stored | Remembered]
        if isinstance(item, Batch):
            try:
                run = _opened(key, item, ciphers)
            except (ValueError, msgspec.DecodeError):
                skipped_bytes += len(item.value)
                continue
        else:
            run = (item,)
        for each in run:
            if isinstance(each, Remembered):
                memory = each.memory
            elif each.offset > last:
                floor, last = _reached(floor, last, each.offset, each.offset)
                stored.append(each)
    if last < outlined.last:
        floor = outlined.last
    monotonic_s = time.monotonic() - time.time()
    return Contents(floor, tuple([_entry(each, monotonic_s) for each in stored]), skipped_bytes, memory)


def resealed(key: ChannelKey, payloads: Iterable[bytes], skipped_bytes: int, cipher: DataCipher) -> bytes:
    """The same file with nothing in the clear; a damaged one is not called complete any more."""
    items: list[Item] = []
    for payload in payloads:
        try:
            item = _frame_decoder.decode(payload)
        except msgspec.DecodeError:
            skipped_bytes += len(payload)
            continue
        if isinstance(item, Opened):
            item = Opened(item.epoch, item.floor, is_sealed=True)
        items += _opened(key, item, {}) if isinstance(item, Batch) and not _is_sealed(item) else [item]
    if not items or not isinstance(items[0], Opened):
        items.insert(0, Opened("", 0, is_sealed=True))
    return framed(key, [item for item in items if not (skipped_bytes and isinstance(item, Complete))], cipher)


def is_in_the_clear(payloads: Sequence[bytes]) -> bool:
    """Whether a file that begins with these payloads may have words in the clear."""
    try:
        first = _frame_decoder.decode(payloads[0])
    except (IndexError, msgspec.DecodeError):
        return True
    return not (isinstance(first, Opened) and first.is_sealed)


def in_epoch(entry: Entry, epoch: str) -> Entry:
    """The same entry in another epoch: its position and the `ep` in its bytes."""
    if entry.position.epoch == epoch:
        return entry
    # Inside a JSON string these quotes would be escaped, so the first hit is the envelope's own field.
    old, new = f'"ep":"{entry.position.epoch}"', f'"ep":"{epoch}"'
    return Entry(
        position=Position(epoch, entry.position.offset),
        kind=entry.kind,
        key=entry.key,
        is_interim=entry.is_interim,
        body=entry.body.replace(old.encode(), new.encode(), 1),
        appended_s=entry.appended_s,
        is_over=entry.is_over,
    )


def _reached(floor: int, last: int, first: int, upto: int) -> tuple[int, int]:
    """Floor and last offset behind entries `first` to `upto`; a hole before them raises the floor."""
    if upto <= last:
        return floor, last
    if first > last + 1 and first > floor + 1:
        floor = first - 1
    return floor, upto


def _batch(key: ChannelKey, run: list[Stored | Remembered], cipher: DataCipher | None) -> list[bytes]:
    if not run:
        return []
    offsets = [item.offset for item in run if isinstance(item, Stored)] or [0]
    value = _encoder.encode(run)
    if cipher is not None:
        value = cipher.seal(value, _context(key, offsets[0], offsets[-1]))
    return [frame(_encoder.encode(Batch(offsets[0], offsets[-1], value)))]


def _opened(key: ChannelKey, batch: Batch, ciphers: Mapping[bytes, DataCipher]) -> list[Stored | Remembered]:
    value = batch.value
    if _is_sealed(batch):
        value = ciphers[header_of(value)].open(value, _context(key, batch.first, batch.last))
    return _batch_decoder.decode(value)


def _is_sealed(batch: Batch) -> bool:
    return batch.value[:1] == bytes([SEALED])


def _context(key: ChannelKey, first: int, last: int) -> bytes:
    return f"file/{key.tenant_id}/{key.channel}/{first}/{last}".encode()


def _offset(entry: Entry) -> int:
    return entry.position.offset


def _entry(stored: Stored, monotonic_s: float) -> Entry:
    position, appended_s = Position(stored.epoch, stored.offset), monotonic_s + stored.appended_ms / 1000
    return Entry(position, stored.kind, stored.key, stored.is_interim, stored.body, appended_s, stored.is_over)


def _stored(entry: Entry, wall_s: float) -> Stored:
    return Stored(
        offset=entry.position.offset,
        epoch=entry.position.epoch,
        kind=entry.kind,
        key=entry.key,
        is_interim=entry.is_interim,
        is_over=entry.is_over,
        appended_ms=(wall_s + entry.appended_s) * 1000,
        body=entry.body,
    )
