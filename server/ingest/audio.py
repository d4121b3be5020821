"""Audio frames as they come, to linear16 mono a role. Pure.

Source: DESIGN 14; mu-law expansion after ITU-T G.711.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.wire.errors import BadAudio
from server.wire.ids import Speaker
from server.wire.ingest import AudioStart, Encoding

SampleArray = NDArray[np.int16]
"""`[samples] int16`, mono."""

MAX_FRAME_BYTES = 64 * 1024


def _mulaw_table() -> SampleArray:
    code = ~np.arange(256, dtype=np.uint8)
    exponent = ((code >> 4) & 7).astype(np.int32)
    magnitude = (((code & 15).astype(np.int32) << 3) + 0x84 << exponent) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


_MULAW = _mulaw_table()


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """What a source announced in `start`.

    Attributes:
        encoding: `linear16` (little endian) or `mulaw`.
        sample_rate_hz: 8,000 to 48,000.
        roles: Whose samples come in which interleaved channel.
    """

    encoding: Encoding
    sample_rate_hz: int
    roles: tuple[Speaker, ...]

    @classmethod
    def of(cls, start: AudioStart) -> AudioFormat:
        """Read it from the `start` message.

        Raises:
            BadAudio: Roles that do not fit the layout; `field` is `roles`.
        """
        roles = tuple(start.roles)
        wanted = 2 if start.layout == "stereo" else 1
        if len(roles) != wanted:
            raise BadAudio(f"layout {start.layout} carries {wanted} role(s), {len(roles)} given", field="roles")
        if len(set(roles)) != len(roles):
            raise BadAudio("a role is named twice", field="roles")
        return cls(start.encoding, start.sample_rate_hz, roles)

    @property
    def bytes_per_sample(self) -> int:
        """Of one channel."""
        return 2 if self.encoding == "linear16" else 1

    @property
    def step_bytes(self) -> int:
        """Of one instant: a sample of every channel."""
        return self.bytes_per_sample * len(self.roles)

    def check(self, frame: bytes) -> None:
        """Refuse a frame that does not fit.

        Raises:
            BadAudio: Empty, too long, or not a whole number of samples of all channels.
        """
        if not frame:
            raise BadAudio("the audio frame is empty")
        if len(frame) > MAX_FRAME_BYTES:
            raise BadAudio(f"the audio frame has {len(frame)} bytes, the limit is {MAX_FRAME_BYTES}")
        if len(frame) % self.step_bytes:
            raise BadAudio(f"the audio frame has {len(frame)} bytes, which is not a multiple of {self.step_bytes}")

    def split(self, frame: bytes) -> tuple[SampleArray, ...]:
        """Cut one frame into the roles' samples.

        Args:
            frame: Interleaved samples in the announced encoding.

        Returns:
            One `[samples] int16` array a role, in the order of `roles`.

        Raises:
            BadAudio: As `check`.
        """
        self.check(frame)
        if self.encoding == "linear16":
            samples = np.frombuffer(frame, dtype="<i2").astype(np.int16, copy=False)
        else:
            samples = _MULAW[np.frombuffer(frame, dtype=np.uint8)]
        if len(self.roles) == 1:
            return (samples,)
        return tuple(samples[channel :: len(self.roles)] for channel in range(len(self.roles)))
