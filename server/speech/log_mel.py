"""Log-mel features as Whisper was trained on them, in numpy. Pure.

Source: openai/whisper `audio.py`: windows of 25 ms every 10 ms, Slaney's mel scale, ten decades below the loudest.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from server.speech.silero import FloatArray

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 160
_WINDOW_SAMPLES = 400
_FLOOR = 1e-10
_DECADES = 8.0

_LINEAR_HZ_PER_MEL = 200 / 3
_LOG_FROM_HZ = 1_000.0
_LOG_STEP = np.log(6.4) / 27


def log_mel(pcm: FloatArray, num_mels: int) -> FloatArray:
    """Features of one stretch of audio.

    Args:
        pcm: `[samples] float32` at 16 kHz, -1 to 1.
        num_mels: 80, or 128 for Whisper large-v3.

    Returns:
        `[num_mels, samples // 160] float32`.
    """
    num_frames = len(pcm) // HOP_SAMPLES
    padded = np.pad(pcm, _WINDOW_SAMPLES // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW_SAMPLES)[::HOP_SAMPLES][:num_frames]
    window = np.hanning(_WINDOW_SAMPLES + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    log_power = np.log10(np.maximum(_filters(num_mels) @ power.T.astype(np.float32), _FLOOR))
    features: FloatArray = (np.maximum(log_power, log_power.max() - _DECADES) + 4.0) / 4.0
    return features.astype(np.float32)


@lru_cache(maxsize=2)
def _filters(num_mels: int) -> FloatArray:
    """Triangles of equal area on the mel scale, `[num_mels, 201] float32`."""
    bins_hz = np.fft.rfftfreq(_WINDOW_SAMPLES, 1 / SAMPLE_RATE_HZ)
    edges_hz = _mels_to_hz(np.linspace(0.0, _hz_to_mels(SAMPLE_RATE_HZ / 2), num_mels + 2))
    width_hz = np.diff(edges_hz)
    distance_hz = edges_hz[:, None] - bins_hz[None, :]
    rising = -distance_hz[:-2] / width_hz[:-1, None]
    falling = distance_hz[2:] / width_hz[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    area = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    filters: FloatArray = (triangles * area[:, None]).astype(np.float32)
    return filters


def _hz_to_mels(hz: float) -> float:
    linear = hz / _LINEAR_HZ_PER_MEL
    if hz < _LOG_FROM_HZ:
        return linear
    return float(_LOG_FROM_HZ / _LINEAR_HZ_PER_MEL + np.log(hz / _LOG_FROM_HZ) / _LOG_STEP)


def _mels_to_hz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    knee = _LOG_FROM_HZ / _LINEAR_HZ_PER_MEL
    hz: npt.NDArray[np.float64] = np.where(
        mels < knee, mels * _LINEAR_HZ_PER_MEL, _LOG_FROM_HZ * np.exp(_LOG_STEP * (mels - knee))
    )
    return hz
