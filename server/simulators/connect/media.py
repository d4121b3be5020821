"""Fragments as Amazon Connect writes them and `GetMedia` returns them, byte for byte in their layout. Pure.

    head   header · segment of unknown size · info · tracks · tags {number, times} · cluster of unknown size · time
    block  SimpleBlock
    tail   tags {ContactId} · tags {InstanceId} · tags {MimeType} · tags {track numbers} · tags {behind, token}

Source: PROTOCOLS b2; RFC 8794, RFC 9559.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from server.ingest.connect import matroska as mkv

FROM_CUSTOMER = "AUDIO_FROM_CUSTOMER"
TO_CUSTOMER = "AUDIO_TO_CUSTOMER"
BLOCK_MS = 64
BLOCK_BYTES = 1024
_UNKNOWN_SIZE = b"\x01\xff\xff\xff\xff\xff\xff\xff"


@dataclass(frozen=True, slots=True)
class Track:
    """A track entry: its number may be any, its name says whose voice it is."""

    number: int
    name: str


TRACKS = (Track(1, FROM_CUSTOMER), Track(2, TO_CUSTOMER))


def element(element_id: int, payload: bytes, *, is_unknown_size: bool = False) -> bytes:
    """One element; a master's payload is its children."""
    size = _UNKNOWN_SIZE if is_unknown_size else _size(len(payload))
    return element_id.to_bytes((element_id.bit_length() + 7) // 8) + size + payload


def tags(**values: str) -> bytes:
    """One `Tags` element."""
    simple = b"".join(
        element(mkv.SIMPLE_TAG, element(mkv.TAG_NAME, name.encode()) + element(mkv.TAG_STRING, value.encode()))
        for name, value in values.items()
    )
    return element(mkv.TAGS, element(mkv.TAG, simple))


def head(
    number: str,
    producer_ms: float,
    server_ms: float,
    tracks: Sequence[Track] = TRACKS,
    *,
    contact_id: str | None = None,
) -> bytes:
    """What precedes a fragment's blocks. `contact_id` puts the tag before the audio, which Connect does not do."""
    return (
        _header()
        + element(mkv.SEGMENT, b"", is_unknown_size=True)
        + _before(number, producer_ms, server_ms, tracks, contact_id)
        + element(mkv.CLUSTER, element(mkv.TIMECODE, _uint(round(producer_ms))), is_unknown_size=True)
    )


def block(number: int, offset_ms: int, pcm: bytes) -> bytes:
    """One `SimpleBlock` of a track."""
    return element(mkv.SIMPLE_BLOCK, bytes([0x80 | number]) + struct.pack(">hB", offset_ms, 0) + pcm)


def tail(contact_id: str | None, token: str, behind_ms: int, tracks: Sequence[Track] = TRACKS) -> bytes:
    """What follows a fragment's blocks."""
    ours = b""
    if contact_id is not None:
        ours = tags(ContactId=contact_id) + tags(InstanceId="5c9c2c5c-0000-4000-8000-000000000000")
        ours += tags(MimeType="audio/L16;rate=8000;channels=1;")
        ours += b"".join(tags(**{track.name: str(track.number)}) for track in tracks)
    return ours + tags(AWS_KINESISVIDEO_MILLIS_BEHIND_NOW=str(behind_ms), AWS_KINESISVIDEO_CONTINUATION_TOKEN=token)


def failure(code: str, error_id: int) -> bytes:
    """How `GetMedia` says in the stream that it cannot go on."""
    return tags(AWS_KINESISVIDEO_ERROR_CODE=code, AWS_KINESISVIDEO_ERROR_ID=str(error_id))


def document(
    number: str,
    producer_ms: float,
    blocks: Sequence[tuple[int, int, bytes]],
    contact_id: str | None,
    tracks: Sequence[Track] = TRACKS,
    *,
    is_tag_first: bool = False,
) -> bytes:
    """A whole fragment with all sizes known.

    Args:
        number: Fragment number and continuation token.
        producer_ms: Producer and server time.
        blocks: Track number, offset from `producer_ms`, samples.
        contact_id: Whose it is; None leaves the tag out.
        tracks: Track entries.
        is_tag_first: Put the contact's tag before the audio.
    """
    audio = element(mkv.TIMECODE, _uint(round(producer_ms))) + b"".join(block(*one) for one in blocks)
    before = _before(number, producer_ms, producer_ms, tracks, contact_id if is_tag_first else None)
    after = tail(None if is_tag_first else contact_id, number, 0, tracks)
    return _header() + element(mkv.SEGMENT, before + element(mkv.CLUSTER, audio) + after)


def _header() -> bytes:
    doc_type = element(0x4282, b"matroska")
    return element(mkv.EBML, element(0x4286, b"\1") + element(0x42F7, b"\1") + doc_type + element(0x4287, b"\2"))


def _before(
    number: str, producer_ms: float, server_ms: float, tracks: Sequence[Track], contact_id: str | None
) -> bytes:
    info = element(0x73A4, bytes(16)) + element(mkv.TIMECODE_SCALE, _uint(1_000_000))
    info += element(0x4D80, b"Kinesis Video SDK 1.1.0 JNI 2.0")
    entries = b"".join(
        element(
            mkv.TRACK_ENTRY,
            element(mkv.TRACK_NUMBER, _uint(track.number))
            + element(0x73C5, _uint(track.number))
            + element(0x83, b"\2")
            + element(mkv.TRACK_NAME, track.name.encode())
            + element(0x86, b"A_AAC"),
        )
        for track in tracks
    )
    stamps = tags(
        AWS_KINESISVIDEO_FRAGMENT_NUMBER=number,
        AWS_KINESISVIDEO_SERVER_TIMESTAMP=f"{server_ms / 1000:.3f}",
        AWS_KINESISVIDEO_PRODUCER_TIMESTAMP=f"{producer_ms / 1000:.3f}",
    )
    contact = b"" if contact_id is None else tags(ContactId=contact_id)
    return element(mkv.INFO, info) + element(mkv.TRACKS, entries) + stamps + contact


def _uint(value: int) -> bytes:
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8))


def _size(num_bytes: int) -> bytes:
    for length in range(1, 9):
        if num_bytes < (1 << 7 * length) - 1:
            return (num_bytes | 1 << 7 * length).to_bytes(length)
    raise ValueError("an element is too long for Matroska")
