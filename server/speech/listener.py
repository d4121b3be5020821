"""One stream inside a worker: raw audio in, decisions of its segmenter out, and the audio they speak of.

pcm ─▶ (resample) ─▶ frames of 32 ms ─▶ noise floor, Silero ─▶ Segmenter ─▶ decisions
                          └─▶ kept until settled ─▶ audio(from, to) for the decoder
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from server.speech.resample import StreamResampler, upsample
from server.speech.segmenter import FRAME_MS, Decision, Segmenter, SegmenterSettings
from server.speech.silero import RATES_HZ, FloatArray

Detector = Callable[[FloatArray], float]
"""Takes one frame, `[32 ms] float32`, and gives the probability of speech."""

_FULL_SCALE = np.float32(1 / 32768)


class Listener:
    """Frames, detects and cuts one stream. Not thread-safe.

    Times are milliseconds since the stream's first sample.

    Args:
        rate_hz: Of the audio given to `feed`.
        open_detector: Makes a detector for 8 or 16 kHz. 8 kHz audio stays as it is; all else becomes 16 kHz.
        settings: Cutting rules.
        noise_floor_dbfs: Frames below it are silence.
    """

    def __init__(
        self,
        rate_hz: int,
        open_detector: Callable[[int], Detector],
        settings: SegmenterSettings,
        noise_floor_dbfs: float,
    ) -> None:
        self.rate_hz = rate_hz if rate_hz in RATES_HZ else 16_000
        self._resampler = None if rate_hz == self.rate_hz else StreamResampler(rate_hz, self.rate_hz)
        self._frame_samples = self.rate_hz * FRAME_MS // 1000
        self._detector = open_detector(self.rate_hz)
        self._settings = settings
        self._segmenter = Segmenter(settings)
        self._floor_power = 10 ** (noise_floor_dbfs / 10)
        self._samples = np.zeros(0, np.int16)
        self._samples_from_ms = 0
        self._num_framed = 0
        self._voiced: list[bool] = []

    @property
    def now_ms(self) -> int:
        """End of the last frame heard."""
        return self._segmenter.now_ms

    @property
    def settled_ms(self) -> int:
        """No decision to come will ask for audio before it."""
        return self._segmenter.settled_ms

    def feed(self, pcm: bytes) -> list[Decision]:
        """Take linear16 samples; a last part shorter than a frame waits for more."""
        samples = np.frombuffer(pcm, np.int16)
        self._append(samples if self._resampler is None else self._resampler(samples))
        return self._detect()

    def finalize(self) -> list[Decision]:
        """Close the segment that is open now."""
        return self._segmenter.finalize()

    def finish(self) -> list[Decision]:
        """No more audio comes: hear the last part of a frame, then close the segment that is open."""
        if self._resampler is not None:
            self._append(self._resampler.flush())
        missing = -len(self._samples) % self._frame_samples
        self._append(np.zeros(missing, np.int16))
        return [*self._detect(), *self._segmenter.finalize()]

    def audio(self, from_ms: int, to_ms: int) -> FloatArray:
        """Samples of a span at the decoder's rate, `[n] float32`, -1 to 1."""
        per_ms = self.rate_hz // 1000
        first = (from_ms - self._samples_from_ms) * per_ms
        if first < 0:
            raise ValueError("the span's audio was given up already")
        span = self._samples[first : (to_ms - self._samples_from_ms) * per_ms].astype(np.float32) * _FULL_SCALE
        return upsample(span, self.rate_hz)

    def voiced(self, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
        """Stretches of voiced frames in a span, `(start, end)`, in order and apart."""
        stretches: list[tuple[int, int]] = []
        for index in range((from_ms - self._samples_from_ms) // FRAME_MS, (to_ms - self._samples_from_ms) // FRAME_MS):
            if not self._voiced[index]:
                continue
            start = self._samples_from_ms + index * FRAME_MS
            if stretches and stretches[-1][1] == start:
                stretches[-1] = (stretches[-1][0], start + FRAME_MS)
            else:
                stretches.append((start, start + FRAME_MS))
        return stretches

    def forget(self, before_ms: int) -> None:
        """Give up audio before a time, rounded down to a frame."""
        num_frames = max(0, (before_ms - self._samples_from_ms) // FRAME_MS)
        if num_frames == 0:
            return
        self._samples = self._samples[num_frames * self._frame_samples :].copy()
        del self._voiced[:num_frames]
        self._num_framed -= num_frames
        self._samples_from_ms += num_frames * FRAME_MS

    def _append(self, samples: npt.NDArray[np.int16]) -> None:
        self._samples = np.concatenate([self._samples, samples])

    def _detect(self) -> list[Decision]:
        decisions: list[Decision] = []
        while (self._num_framed + 1) * self._frame_samples <= len(self._samples):
            first = self._num_framed * self._frame_samples
            frame = self._samples[first : first + self._frame_samples].astype(np.float32) * _FULL_SCALE
            # The detector hears every frame, also one below the floor: its state must not skip time.
            probability = self._detector(frame)
            if float(np.dot(frame, frame)) / len(frame) < self._floor_power:
                probability = 0.0
            self._num_framed += 1
            self._voiced.append(probability >= self._settings.offset_probability)
            decisions += self._segmenter.push(probability)
        return decisions
