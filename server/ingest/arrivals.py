"""When did the block that holds an audio instant arrive? Pure.

Audio time is the anchor of every latency: the wall time of an audio instant (T0) comes from the gateway's own
first-sample stamp, T1 is the arrival of its block, T2 its hand-over to the recogniser. Source: OPERATIONS d5.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

from server.wire.clock import Stamps

KEPT_MS = 60_000
"""Blocks older than this are forgotten; no utterance is longer (the recogniser caps segments at 15 s)."""


@dataclass(frozen=True, slots=True)
class _Block:
    end_ms: float
    arrived_ms: float
    sent_ms: float


class Arrivals:
    """Arrival times of one audio source's blocks, on its audio clock.

    Args:
        start_ms: Audio time of the first sample that will arrive.
    """

    def __init__(self, start_ms: float = 0.0) -> None:
        self._blocks: deque[_Block] = deque()
        self._end_ms = float(start_ms)
        self._zero_wall_ms: float | None = None
        self._frame_ms = 0.0

    @property
    def end_ms(self) -> float:
        """Audio time after the last sample that arrived."""
        return self._end_ms

    def add(self, duration_ms: float, arrived_ms: float, sent_ms: float) -> None:
        """Note a block.

        Args:
            duration_ms: Its length.
            arrived_ms: Wall time at which it was received.
            sent_ms: Wall time at which the recogniser had taken it.
        """
        self._end_ms += duration_ms
        self._frame_ms = duration_ms
        # A block cannot arrive before it was spoken, so the earliest estimate of audio zero is the best one:
        # later blocks only add network jitter.
        zero_wall_ms = arrived_ms - self._end_ms
        if self._zero_wall_ms is None or zero_wall_ms < self._zero_wall_ms:
            self._zero_wall_ms = zero_wall_ms
        self._blocks.append(_Block(self._end_ms, arrived_ms, sent_ms))
        while self._blocks[0].end_ms < self._end_ms - KEPT_MS:
            self._blocks.popleft()

    def stamps(self, at_ms: float, received_ms: float) -> Stamps:
        """Stamps of a recogniser's result about the audio that ends at `at_ms`.

        Args:
            at_ms: End of the last word, audio time.
            received_ms: Wall time at which the result came (T3).
        """
        if self._zero_wall_ms is None or not self._blocks:
            return Stamps(t3=received_ms)
        index = bisect_left(self._blocks, at_ms, key=lambda block: block.end_ms)
        block = self._blocks[min(index, len(self._blocks) - 1)]
        return Stamps(
            # A long block carries its last word early: the wait for the rest of it is the frame's, not the network's.
            t0=round(min(self._zero_wall_ms + at_ms, block.arrived_ms), 3),
            t1=block.arrived_ms,
            t2=block.sent_ms,
            t3=received_ms,
            frame_ms=round(self._frame_ms, 3),
        )
