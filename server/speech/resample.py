"""Streaming sample rate conversion with a delay of two milliseconds.

soxr's streams hold 20 to 85 ms of audio back, depending on the rates (measured with 20 ms frames), which is a third
of the recogniser's whole budget. A short windowed sinc is enough for speech that goes into a voice detector.
"""

from __future__ import annotations

from math import ceil, gcd

import numpy as np
import numpy.typing as npt
import soxr

from server.speech.decoder import SAMPLE_RATE_HZ as DECODER_RATE_HZ

Int16Array = npt.NDArray[np.int16]

_ZERO_CROSSINGS = 16
"""Of the sinc on each side, at the lower of the two rates: one millisecond at 16 kHz, and the stop band starts
about 600 Hz above the pass band."""

_KAISER_BETA = 7.0
"""About 70 dB of stop band, below the noise of 16-bit telephony."""


def upsample(samples: npt.NDArray[np.float32], from_hz: int) -> npt.NDArray[np.float32]:
    """A whole stretch of speech, `[n] float32`, at the 16 kHz that decoders take."""
    if from_hz == DECODER_RATE_HZ:
        return samples
    converted: npt.NDArray[np.float32] = soxr.resample(samples, from_hz, DECODER_RATE_HZ)
    return converted


class StreamResampler:
    """Converts one stream of int16 mono samples. Sample `n` of the output is the input at `n / to_hz` seconds.

    Args:
        from_hz: Rate of the input.
        to_hz: Rate of the output.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        common = gcd(from_hz, to_hz)
        self._up, self._down = to_hz // common, from_hz // common
        scale = min(1.0, to_hz / from_hz)
        self._reach = ceil(_ZERO_CROSSINGS / scale)
        taps = np.arange(-self._reach + 1, self._reach + 1)
        phases = np.arange(self._up)[:, None] / self._up
        distance = taps[None, :] - phases
        window = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (distance / self._reach) ** 2, 0, None)))
        kernel = np.sinc(distance * scale) * window
        self._kernel = (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
        # The input before the first sample is silence, so that the first output needs no special case.
        self._held = np.zeros(self._reach - 1, np.int16)
        self._first_held = -(self._reach - 1)
        self._num_out = 0

    def __call__(self, samples: Int16Array) -> Int16Array:
        """Take the next samples and return all output that they settle.

        Args:
            samples: `[n] int16`, any length.

        Returns:
            `[m] int16` at the other rate.
        """
        self._held = np.concatenate([self._held, samples])
        last = self._first_held + len(self._held) - 1
        # Output n reads inputs floor(n * down / up) - reach + 1 … + reach.
        num_ready = max(self._num_out, -((self._reach - last - 1) * self._up // self._down))
        positions = np.arange(self._num_out, num_ready, dtype=np.int64) * self._down
        centres, phases = positions // self._up, positions % self._up
        if len(positions) == 0:
            return np.zeros(0, np.int16)
        windows = np.lib.stride_tricks.sliding_window_view(self._held, 2 * self._reach)
        starts = centres - self._reach + 1 - self._first_held
        mixed = np.einsum("ij,ij->i", windows[starts].astype(np.float32), self._kernel[phases])
        self._num_out = num_ready
        keep_from = num_ready * self._down // self._up - self._reach + 1
        self._held = self._held[keep_from - self._first_held :].copy()
        self._first_held = keep_from
        converted: Int16Array = np.clip(np.rint(mixed), -32768, 32767).astype(np.int16)
        return converted

    def flush(self) -> Int16Array:
        """The output that still waits for input, as if silence followed."""
        return self(np.zeros(self._reach, np.int16))
