"""Speech was sent, and nothing came back: a connection that is up and a recogniser that is not. Pure.

Loud audio stands for speech here. That is enough, because a recogniser that is well answers to noise and silence,
too: with empty results, or with how far it has come. Source: OPERATIONS d3 (stall).
"""

from __future__ import annotations

import numpy as np

VOICED_PEAK = 300
"""Of 32,768. Telephone speech goes beyond it in any 20 ms, line noise and comfort noise do not."""


class StallWatch:
    """Watches one recogniser stream.

    Args:
        rate_hz: Of the audio.
        stall_after_s: So much speech unanswered for so long is a stall.
        now_s: Monotonic time.
    """

    def __init__(self, rate_hz: int, stall_after_s: float, now_s: float) -> None:
        self._rate_hz = rate_hz
        self._stall_after_s = stall_after_s
        self._voiced_s = 0.0
        self._since_s = now_s

    def sent(self, pcm: bytes, now_s: float) -> bool:
        """Note audio that was sent; True if the stream has stalled."""
        samples = np.frombuffer(pcm, np.int16)
        if len(samples) and samples.max() > VOICED_PEAK:
            if self._voiced_s == 0.0:
                self._since_s = now_s
            self._voiced_s += len(samples) / self._rate_hz
        return self._voiced_s >= self._stall_after_s and now_s - self._since_s >= self._stall_after_s

    def received(self) -> None:
        """Anything came."""
        self._voiced_s = 0.0
