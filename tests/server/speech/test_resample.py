from __future__ import annotations

import numpy as np
import pytest

from server.speech.resample import StreamResampler


@pytest.mark.parametrize("rate_hz", [11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_a_tone_keeps_its_pitch_phase_and_level_in_any_portions(rate_hz: int) -> None:
    rng = np.random.default_rng(7)
    tone = 9_000 * np.sin(2 * np.pi * 700 * np.arange(rate_hz) / rate_hz)
    samples = tone.astype(np.int16)
    resampler = StreamResampler(rate_hz, 16_000)
    parts, taken, given, worst_s = [], 0, 0, 0.0
    while taken < len(samples):
        portion = samples[taken : taken + int(rng.integers(1, rate_hz // 10))]
        taken += len(portion)
        parts.append(resampler(portion))
        given += len(parts[-1])
        worst_s = max(worst_s, taken / rate_hz - given / 16_000)
    parts.append(resampler.flush())
    converted = np.concatenate(parts)

    assert len(converted) == pytest.approx(16_000, abs=2)
    expected = 9_000 * np.sin(2 * np.pi * 700 * np.arange(len(converted)) / 16_000)
    error = (converted - expected)[100:-100]
    assert 20 * np.log10(error.std() / expected.std()) < -60
    assert worst_s < 0.002, "the delay is a promise of this module"


def test_what_16_khz_cannot_hold_does_not_fold_back() -> None:
    tone = (9_000 * np.sin(2 * np.pi * 11_000 * np.arange(48_000) / 48_000)).astype(np.int16)
    converted = StreamResampler(48_000, 16_000)(tone)
    assert converted[100:-100].std() < tone.std() / 1_000


def test_full_scale_does_not_wrap_around() -> None:
    """Ringing at an edge reaches over full scale: it must stop there, not come back at the other end."""
    square = np.where(np.arange(4_800) % 480 < 240, 32_767, -32_768).astype(np.int16)
    converted = StreamResampler(48_000, 16_000)(square).astype(int)
    phase = np.arange(len(converted)) % 160
    assert (converted[(phase > 2) & (phase < 78)] > 29_000).all()
    assert (converted[(phase > 82) & (phase < 158)] < -29_000).all()


def test_an_empty_portion_is_nothing() -> None:
    assert len(StreamResampler(48_000, 16_000)(np.zeros(0, np.int16))) == 0
