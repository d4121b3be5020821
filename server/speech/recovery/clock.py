"""Between samples of one side and milliseconds of its call. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SampleClock:
    """Linear: sample 0 is `start_ms`, and no reconnect moves it.

    Attributes:
        start_ms: Audio time of the first sample.
        rate_hz: Samples a second.
    """

    start_ms: int
    rate_hz: int

    def position_of(self, at_ms: int) -> int:
        """First sample at or after an audio time."""
        return -(-max(0, at_ms - self.start_ms) * self.rate_hz // 1000)

    def ms_of(self, position: int) -> int:
        """Audio time of a sample, rounded down; `position_of` gives back what it was made of."""
        return self.start_ms + position * 1000 // self.rate_hz

    def aligned(self, position: int) -> int:
        """The sample at the whole millisecond at or before a position: a stream can begin there."""
        return self.position_of(self.ms_of(position))
