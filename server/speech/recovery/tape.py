"""Audio that may be needed again, by sample. Pure.

append ─▶ [ start ········ end )  ─▶ read again from anywhere;  forget what is recognised
"""

from __future__ import annotations

import numpy as np

BYTES_PER_SAMPLE = 2

_WINDOW_MS = 60
"""A pause between words is at least so long; one between phrases much longer."""
_STEP_MS = 10


class Tape:
    """A stretch of audio that grows at its end and is forgotten from its start.

    Args:
        rate_hz: Samples a second.
        sample_bytes: Bytes of a sample, of all channels together; linear16 mono by default.
    """

    def __init__(self, rate_hz: int, sample_bytes: int = BYTES_PER_SAMPLE) -> None:
        self._rate_hz = rate_hz
        self._sample_bytes = sample_bytes
        self._pcm = bytearray()
        self.start = 0

    @property
    def end(self) -> int:
        """Position after the last sample."""
        return self.start + len(self._pcm) // self._sample_bytes

    def append(self, pcm: bytes) -> None:
        """Take whole samples."""
        self._pcm += pcm

    def read(self, position: int, max_samples: int) -> bytes:
        """Samples from a position on; empty at the end.

        Raises:
            ValueError: They were forgotten.
        """
        if position < self.start:
            raise ValueError(f"sample {position} was forgotten, the tape starts at {self.start}")
        first = (position - self.start) * self._sample_bytes
        return bytes(memoryview(self._pcm)[first : first + max_samples * self._sample_bytes])

    def forget(self, before: int) -> None:
        """Give up samples before a position."""
        if before > self.start:
            before = min(before, self.end)
            del self._pcm[: (before - self.start) * self._sample_bytes]
            self.start = before

    def quietest(self, from_position: int, to_position: int) -> int:
        """The middle of the quietest moment of a span: where a cut tears the fewest words. Of equals the latest.

        Of linear16 mono only.
        """
        window, step = self._rate_hz * _WINDOW_MS // 1000, self._rate_hz * _STEP_MS // 1000
        pcm = self.read(from_position, to_position - from_position)
        samples = np.frombuffer(pcm, np.int16).astype(np.float64)
        if len(samples) <= window:
            return from_position
        energy = np.concatenate([[0.0], np.cumsum(samples * samples)])
        starts = np.arange(0, len(samples) - window + 1, step)
        power = energy[starts + window] - energy[starts]
        quiet = np.flatnonzero(power <= power.min())
        return from_position + int(starts[quiet[-1]]) + window // 2
