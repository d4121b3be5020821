"""A two-party recording: two sides on one clock.

Pure but for reading files. Any rate and any format that libsndfile reads is taken; the sides are brought to one
telephone-grade or better rate and padded to one length.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from server.wire.errors import BadAudio, TooLarge
from server.wire.ingest import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ

MAX_SECONDS = 4 * 3600


@dataclass(frozen=True, slots=True)
class Recording:
    """Both sides of a call.

    Attributes:
        sample_rate_hz: Of both.
        samples: `[samples, 2] int16`, customer then agent.
    """

    sample_rate_hz: int
    samples: NDArray[np.int16]

    @property
    def duration_ms(self) -> int:
        """Length on the audio clock."""
        return 1000 * len(self.samples) // self.sample_rate_hz

    def frames(self, frame_ms: int, seconds: float | None = None) -> list[bytes]:
        """Interleaved stereo frames of `frame_ms` each; the last one may be shorter."""
        samples = self.samples if seconds is None else self.samples[: int(seconds * self.sample_rate_hz)]
        step = self.sample_rate_hz * frame_ms // 1000
        return [samples[start : start + step].tobytes() for start in range(0, len(samples), step)]


def read_sides(customer: Path, agent: Path) -> Recording:
    """Read one file a side.

    Raises:
        BadAudio: A file is missing, no audio, or has more than one channel; `field` is the option.
    """
    sides = []
    for field, path in (("customer", customer), ("agent", agent)):
        if not path.is_file():
            raise BadAudio(f"no such file: {path}", field=field)
        samples, rate_hz = _read(path, field)
        if samples.shape[1] != 1:
            raise BadAudio(f"has {samples.shape[1]} channels, one is expected", field=field)
        sides.append((samples[:, 0], rate_hz))
    rate_hz = min(max(rate for _, rate in sides), MAX_SAMPLE_RATE_HZ)
    tracks = [_resample(samples, rate, rate_hz) for samples, rate in sides]
    both = np.zeros((max(len(track) for track in tracks), 2), np.int16)
    for channel, track in enumerate(tracks):
        both[: len(track), channel] = track
    return Recording(rate_hz, both)


def read_stereo(file: Path | bytes) -> Recording:
    """Read one two-channel file: customer left, agent right.

    Raises:
        BadAudio: It is missing, no audio, or does not have two channels.
    """
    if isinstance(file, Path) and not file.is_file():
        raise BadAudio(f"no such file: {file}", field="file")
    samples, rate_hz = _read(io.BytesIO(file) if isinstance(file, bytes) else file, "file")
    if samples.shape[1] != 2:
        raise BadAudio(
            f"has {samples.shape[1]} channel(s); two are needed, customer left and agent right", field="file"
        )
    target_hz = min(rate_hz, MAX_SAMPLE_RATE_HZ)
    return Recording(target_hz, np.stack([_resample(samples[:, side], rate_hz, target_hz) for side in (0, 1)], axis=1))


def _read(file: Path | io.BytesIO, field: str) -> tuple[NDArray[np.int16], int]:
    try:
        with soundfile.SoundFile(file) as sound:
            if sound.frames > MAX_SECONDS * sound.samplerate:
                raise TooLarge(f"is longer than {MAX_SECONDS // 3600} hours", field=field)
            if sound.samplerate < MIN_SAMPLE_RATE_HZ:
                raise BadAudio(f"has {sound.samplerate} Hz, at least {MIN_SAMPLE_RATE_HZ} are needed", field=field)
            samples = sound.read(dtype="int16", always_2d=True)
            rate_hz = int(sound.samplerate)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise BadAudio("is not audio that can be read (WAV, FLAC, OGG)", field=field) from error
    if not len(samples):
        raise BadAudio("holds no samples", field=field)
    return samples, rate_hz


def _resample(samples: NDArray[np.int16], rate_hz: int, target_hz: int) -> NDArray[np.int16]:
    if rate_hz == target_hz:
        return samples
    resampled: NDArray[np.int16] = soxr.resample(samples, rate_hz, target_hz)
    return resampled
