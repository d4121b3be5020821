import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ingest.audio import MAX_FRAME_BYTES, AudioFormat
from server.wire.errors import BadAudio
from server.wire.ingest import AudioStart

STEREO = AudioFormat("linear16", 8000, ("customer", "agent"))
MONO = AudioFormat("linear16", 16000, ("agent",))
MULAW = AudioFormat("mulaw", 8000, ("customer", "agent"))


def start(**changes) -> AudioStart:
    values = {
        "conversation_id": "c",
        "encoding": "linear16",
        "sample_rate_hz": 8000,
        "layout": "stereo",
        "roles": ["customer", "agent"],
    }
    return AudioStart(**(values | changes))


@given(st.lists(st.tuples(st.integers(-32768, 32767), st.integers(-32768, 32767)), min_size=1, max_size=200))
def test_stereo_is_split_by_role(pairs):
    frame = np.array(pairs, "<i2").tobytes()
    customer, agent = STEREO.split(frame)
    assert customer.tolist() == [left for left, _ in pairs]
    assert agent.tolist() == [right for _, right in pairs]


def test_roles_follow_the_announced_order():
    swapped = AudioFormat.of(start(roles=["agent", "customer"]))
    assert swapped.roles == ("agent", "customer")


def test_mulaw_expands_as_g711():
    (customer, agent) = MULAW.split(bytes([0x00, 0x80, 0xFF, 0x7F]))
    assert customer.tolist() == [-32124, 0]
    assert agent.tolist() == [32124, 0]


@pytest.mark.parametrize(
    ("audio_format", "frame"),
    [(STEREO, b""), (STEREO, b"\0" * 6), (MONO, b"\0"), (MULAW, b"\0"), (MONO, b"\0" * (MAX_FRAME_BYTES + 2))],
)
def test_a_frame_that_does_not_fit_is_refused(audio_format, frame):
    with pytest.raises(BadAudio):
        audio_format.split(frame)


@pytest.mark.parametrize(
    "changes",
    [
        {"roles": ["customer"]},
        {"layout": "mono"},
        {"roles": ["agent", "agent"]},
        {"layout": "mono", "roles": ["agent", "customer"]},
    ],
)
def test_roles_have_to_fit_the_layout(changes):
    with pytest.raises(BadAudio) as caught:
        AudioFormat.of(start(**changes))
    assert caught.value.field == "roles"
