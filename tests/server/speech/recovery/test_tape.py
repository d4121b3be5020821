from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.speech.recovery.clock import SampleClock
from server.speech.recovery.tape import Tape


@given(st.lists(st.one_of(st.integers(1, 300), st.integers(-300, -1)), max_size=40))
def test_it_gives_back_what_it_was_given_and_has_not_forgotten(steps: list[int]) -> None:
    tape, whole = Tape(8_000), b""
    for step in steps:
        if step > 0:
            pcm = np.arange(len(whole) // 2, len(whole) // 2 + step, dtype=np.int16).tobytes()
            tape.append(pcm)
            whole += pcm
        else:
            tape.forget(tape.start - step)
        assert tape.end == len(whole) // 2
        middle = (tape.start + tape.end) // 2
        assert tape.read(middle, 50) == whole[2 * middle : 2 * middle + 100]


def test_what_is_forgotten_cannot_be_read() -> None:
    tape = Tape(8_000)
    tape.append(bytes(200))
    tape.forget(50)
    with pytest.raises(ValueError, match="forgotten"):
        tape.read(49, 1)


def test_a_cut_goes_where_it_is_quiet() -> None:
    samples = np.random.default_rng(1).integers(-5_000, 5_000, 24_000).astype(np.int16)
    samples[12_000:13_600] //= 100
    tape = Tape(8_000)
    tape.append(samples.tobytes())
    assert 12_000 <= tape.quietest(0, 24_000) <= 13_600
    assert tape.quietest(23_900, 24_000) == 23_900


@given(st.integers(0, 10**9), st.sampled_from([8_000, 11_025, 16_000, 44_100]), st.integers(0, 4 * 3600 * 1000))
def test_samples_and_milliseconds_agree_for_hours(start_ms: int, rate_hz: int, at_ms: int) -> None:
    clock = SampleClock(start_ms, rate_hz)
    assert clock.ms_of(clock.position_of(start_ms + at_ms)) == start_ms + at_ms
    position = at_ms * 7
    assert 0 <= position - clock.aligned(position) <= rate_hz // 1000 + 1
