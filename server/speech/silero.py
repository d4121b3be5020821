"""Voice activity: Silero VAD's ONNX model on onnxruntime, one state a stream.

Source: Silero VAD 6, `OnnxWrapper`: 512 samples at 16 kHz or 256 at 8 kHz a step, each preceded by the last 64 or 32
samples of the step before; a recurrent state of `[2, 1, 128]`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from server.speech.segmenter import FRAME_MS

FloatArray = npt.NDArray[np.float32]

RATES_HZ = (8_000, 16_000)
"""Rates that the model was trained on."""


def session_options(threads: int) -> ort.SessionOptions:
    """Options of a session that shares its core with others: no idle spinning, no growing arena."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class SileroModel:
    """The weights, shared by all streams of a process.

    Args:
        path: `silero_vad.onnx`.
    """

    def __init__(self, path: Path) -> None:
        self._session = ort.InferenceSession(str(path), session_options(1), providers=["CPUExecutionProvider"])

    def open(self, rate_hz: int) -> SileroStream:
        """A detector for one stream of 8 or 16 kHz audio."""
        return SileroStream(self._session, rate_hz)


class SileroStream:
    """Probability of speech of one stream's frames, in order. One thread at a time.

    Args:
        session: The loaded model.
        rate_hz: 8000 or 16000.
    """

    def __init__(self, session: ort.InferenceSession, rate_hz: int) -> None:
        if rate_hz not in RATES_HZ:
            raise ValueError(f"rate_hz must be one of {RATES_HZ}, got {rate_hz}")
        self.frame_samples = rate_hz * FRAME_MS // 1000
        self._session = session
        self._rate = np.array(rate_hz, np.int64)
        self._num_context = self.frame_samples // 8
        self._input = np.zeros((1, self._num_context + self.frame_samples), np.float32)
        self._state = np.zeros((2, 1, 128), np.float32)

    def __call__(self, frame: FloatArray) -> float:
        """Probability that there is speech in the next frame.

        Args:
            frame: `[frame_samples] float32`, -1 to 1.
        """
        self._input[0, : self._num_context] = self._input[0, -self._num_context :]
        self._input[0, self._num_context :] = frame
        probability, self._state = self._session.run(
            None, {"input": self._input, "state": self._state, "sr": self._rate}
        )
        return float(probability[0, 0])
