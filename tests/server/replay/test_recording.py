import io

import numpy as np
import pytest
import soundfile

from server.replay.recording import read_sides, read_stereo
from server.wire.errors import BadAudio


def tone(seconds: float, rate_hz: int, channels: int = 1) -> np.ndarray:
    wave = (8000 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.int16)
    return wave if channels == 1 else np.stack([wave] * channels, axis=1)


def write(path, samples, rate_hz):
    soundfile.write(path, samples, rate_hz, subtype="PCM_16")
    return path


def test_sides_share_one_clock(tmp_path):
    customer = write(tmp_path / "c.wav", tone(1.0, 8000), 8000)
    agent = write(tmp_path / "a.wav", tone(0.5, 16000), 16000)
    recording = read_sides(customer, agent)
    assert (recording.sample_rate_hz, recording.duration_ms) == (16000, 1000)
    assert recording.samples[9000:, 1].any() == np.False_  # the shorter side is silent to the end
    assert recording.samples[:, 0].any()


def test_frames_are_interleaved_and_whole(tmp_path):
    left, right = tone(0.05, 8000), np.zeros(400, np.int16)
    recording = read_stereo(write(tmp_path / "s.wav", np.stack([left, right], axis=1), 8000))
    frames = recording.frames(20)
    assert [len(frame) for frame in frames] == [640, 640, 320]
    joined = np.frombuffer(b"".join(frames), np.int16).reshape(-1, 2)
    assert np.array_equal(joined[:, 0], left)
    assert not joined[:, 1].any()
    assert len(recording.frames(20, seconds=0.02)) == 1


def test_bytes_are_read_as_files_are():
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(0.1, 8000, channels=2), 8000, format="WAV", subtype="PCM_16")
    assert read_stereo(buffer.getvalue()).duration_ms == 100


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVE", b"\x00" * 5000, b"not audio at all"])
def test_no_audio_is_a_clear_error(content):
    with pytest.raises(BadAudio, match="not audio"):
        read_stereo(content)


def test_wrong_channels_are_named(tmp_path):
    mono = write(tmp_path / "m.wav", tone(0.1, 8000), 8000)
    stereo = write(tmp_path / "s.wav", tone(0.1, 8000, channels=2), 8000)
    with pytest.raises(BadAudio, match="two are needed"):
        read_stereo(mono)
    with pytest.raises(BadAudio) as caught:
        read_sides(mono, stereo)
    assert caught.value.field == "agent"
    with pytest.raises(BadAudio, match="no such file") as caught:
        read_sides(tmp_path / "none.wav", mono)
    assert caught.value.field == "customer"


def test_rates_below_telephone_quality_are_refused(tmp_path):
    with pytest.raises(BadAudio, match="at least 8000"):
        read_stereo(write(tmp_path / "low.wav", tone(0.1, 6000, channels=2), 6000))
