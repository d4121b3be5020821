"""Bodies of `GetMedia` for tests: blocks whose samples say whose they are and where they belong."""

from __future__ import annotations

import itertools

import numpy as np

from server.simulators.connect import media

ZERO_MS = 1_726_677_688_724
FROM, TO = 1, 2


def pcm(track: int, start: int, num_samples: int = 512) -> bytes:
    """Samples that count, so that a lost, doubled or moved one shows; never zero, which is silence of ours."""
    counted = np.arange(start, start + num_samples) % 15_000 + 1
    return (counted if track == FROM else -counted).astype("<i2").tobytes()


def blocks(start_ms: int, num_blocks: int, tracks=(FROM, TO)) -> list[tuple[int, int, bytes]]:
    """Interleaved blocks of 64 ms; offsets are relative to `start_ms`."""
    return [
        (track, index * 64, pcm(track, start_ms * 8 + index * 512)) for index in range(num_blocks) for track in tracks
    ]


def fragments(contact_id, num_fragments, *, first=0, blocks_each=4, tracks=(FROM, TO), start_ms=0, **options) -> bytes:
    """Whole fragments of one contact, one after the other."""
    length_ms = 64 * blocks_each
    return b"".join(
        media.document(
            str(1000 + first + index),
            ZERO_MS + start_ms + index * length_ms,
            blocks(start_ms + index * length_ms, blocks_each, tracks),
            contact_id,
            **options,
        )
        for index in range(num_fragments)
    )


def joined(placed, role) -> bytes:
    """One side's samples, checked to be without hole or overlap."""
    parts = sorted((p for p in placed if p.role == role), key=lambda p: p.position)
    for one, other in itertools.pairwise(parts):
        assert one.position + len(one.pcm) // 2 == other.position
    return b"".join(p.pcm for p in parts)
