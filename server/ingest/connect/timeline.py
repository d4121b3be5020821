"""Where each side's audio lies on the call's clock. Pure.

    block(role, time) ──place──▶ Placed(role, position, samples), silence where a side was silent for the stream

The clock counts samples: small errors of the producer's stamps neither insert nor lose one. What happens depends only
on the blocks and the state at the fragment's begin, which a `Mark` holds, so reading a fragment again gives the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from server.ingest.connect.fragments import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ, Block
from server.wire.ids import Speaker

SAMPLES_PER_MS: Final = SAMPLE_RATE_HZ // 1000
JITTER_SAMPLES: Final = 32 * SAMPLES_PER_MS
"""Stamps that are off by less than half of Connect's 64 ms blocks are inexact, not a hole."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Samples of one side.

    Attributes:
        role: Whose.
        position: Of the first one, in samples since the contact's first fragment began.
        pcm: linear16.
        is_filled: Silence of ours, where the stream has nothing.
    """

    role: Speaker
    position: int
    pcm: bytes
    is_filled: bool = False


class Timeline:
    """Places blocks.

    Args:
        zero_ms: Producer time of position 0.
        positions: Next position of each side that has spoken; empty at the contact's begin.
        filled: How much of what lies just before that position is silence of ours.
        max_skew_ms: A side that falls so far behind the other is filled up: its recogniser hears that nobody speaks.
    """

    def __init__(
        self,
        zero_ms: float,
        positions: Mapping[Speaker, int],
        filled: Mapping[Speaker, int],
        *,
        max_skew_ms: int,
    ) -> None:
        self.zero_ms = zero_ms
        self.positions: dict[Speaker, int] = dict(positions)
        self.filled: dict[Speaker, int] = dict(filled)
        self.num_late = 0
        """Samples that came after their place had been filled."""
        self._max_skew = max_skew_ms * SAMPLES_PER_MS

    def place(self, block: Block) -> list[Placed]:
        """Place one block; silence before it, and for the other side, comes along."""
        placed: list[Placed] = []
        role, pcm = block.role, block.pcm
        target = round((block.at_ms - self.zero_ms) * SAMPLES_PER_MS)
        if role not in self.positions:
            # Whatever the stamps say of the first block, nothing of it is lost. Sources start on a whole millisecond.
            self.positions[role] = max(0, target - target % SAMPLES_PER_MS)
        ahead = target - self.positions[role]
        if ahead > JITTER_SAMPLES:
            placed.append(self._fill(role, ahead))
        elif ahead < -JITTER_SAMPLES:
            late = min(-ahead, self.filled.get(role, 0), len(pcm) // BYTES_PER_SAMPLE)
            self.num_late += late
            pcm = pcm[late * BYTES_PER_SAMPLE :]
        if pcm:
            placed.append(Placed(role, self.positions[role], pcm))
            self.positions[role] += len(pcm) // BYTES_PER_SAMPLE
            self.filled[role] = 0
        for other, position in self.positions.items():
            behind = self.positions[role] - self._max_skew - position
            if behind > 0:
                placed.append(self._fill(other, behind))
        return placed

    def _fill(self, role: Speaker, num_samples: int) -> Placed:
        position = self.positions[role]
        self.positions[role] += num_samples
        self.filled[role] = self.filled.get(role, 0) + num_samples
        return Placed(role, position, bytes(num_samples * BYTES_PER_SAMPLE), is_filled=True)
